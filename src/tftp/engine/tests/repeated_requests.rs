//! Requests that arrive again: duplicates, and restarts of the client.

use super::*;

#[test]
fn a_repeated_request_restarts_only_if_it_differs_or_is_late() {
    in_namespace(|| {
        let (running, _) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client::ask(local(69), "a", &[]);
        client.data(1, &[7; 512]);
        client.request(local(69), "a", &[]);
        until(&running, "the duplicate is counted", |totals| totals.get(Counter::RequestsRepeated) == 1);
        client.request(local(69), "b", &[]);
        until(&running, "the other is a restart", |totals| totals.get(Counter::Restarted) == 1 && totals.get(Counter::Started) == 2);
        let tid = client.data(1, &[7; 512]);
        client.ack(tid, 1);
        client.data(2, &[7; 88]);
        // It was delayed, or crossed the server's first answer: its client goes on.
        client.request(local(69), "b", &[]);
        until(&running, "the delayed one is counted", |totals| totals.get(Counter::RequestsRepeated) == 2);
        client.ack(tid, 2);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
        client.request(local(69), "b", &[]);
        let tid = client.data(1, &[7; 512]);
        client.ack(tid, 1);
        client.data(2, &[7; 88]);
        // The client has been silent for a second: it starts again.
        let since = std::time::Instant::now();
        while running.statistics().totals().get(Counter::Restarted) == 1 {
            assert!(since.elapsed() < Duration::from_secs(10));
            client.request(local(69), "b", &[]);
            std::thread::sleep(Duration::from_millis(250));
        }
        assert!(since.elapsed() > Duration::from_millis(900));
    });
}

/// The first answer is lost. Client and server repeat after a second, and the client's repetition arrives after its answer to the server's.
#[test]
fn a_repeated_request_that_crosses_the_repeated_answer_changes_nothing() {
    in_namespace(|| {
        let (running, outcomes) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 2100]))));
        let options = [("blksize", "512"), ("windowsize", "2")];
        let client = Client::ask(local(69), "f", &options);
        let (oack, tid) = client.receive();
        let (repeated, _) = client.receive();
        assert_eq!(oack, repeated);
        client.ack(tid, 0);
        client.data(1, &[7; 512]);
        client.data(2, &[7; 512]);
        client.request(local(69), "f", &options);
        until(&running, "the duplicate is counted", |totals| totals.get(Counter::RequestsRepeated) == 1);
        client.ack(tid, 2);
        client.data(3, &[7; 512]);
        client.data(4, &[7; 512]);
        client.request(local(69), "f", &options);
        until(&running, "again", |totals| totals.get(Counter::RequestsRepeated) == 2);
        client.ack(tid, 4);
        client.data(5, &[7; 52]);
        client.ack(tid, 5);
        outcomes.expect(&[Outcome::Done]);
    });
}
