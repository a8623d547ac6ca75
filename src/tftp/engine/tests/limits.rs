//! With limits for each client, transfers still share reads.

use super::*;
use crate::handlers::limits::{Limited, Settings};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Content that counts its reads.
struct Counted(Bytes, AtomicUsize);

impl Source for Counted {
    fn size(&self) -> Option<u64> {
        self.0.size()
    }
    fn version(&self) -> Version {
        self.0.version()
    }
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.poll_read_at(context, offset, buffer)
    }
}

#[test]
fn clients_within_their_limits_share_reads_and_release_their_permits() {
    in_namespace(|| {
        let counted = Arc::new(Counted(Bytes::new(vec![7; 1100]), AtomicUsize::new(0)));
        let content = Content(counted.clone());
        let inner = SharedHandler::new(handler_fn(move |_| Ok(content.clone())));
        let settings = Settings { concurrent: Some(2), ..Settings::default() };
        let (running, _) = serve(Config::listen(local(69)), Limited::new(settings, inner));
        for round in 1..=2 {
            let clients = [1, 2].map(|_| Client::ask(local(69), "f", &[]));
            let tids = clients.each_ref().map(|client| client.data(1, &[7; 512]));
            let _beyond = Client::ask(local(69), "f", &[]);
            until(&running, "the third is not answered", |totals| totals.get(Counter::Refused) == round);
            for (acked, length) in [(1, 512), (2, 76)] {
                for (client, tid) in clients.iter().zip(tids) {
                    client.ack(tid, acked);
                    client.data(acked + 1, &vec![7; length]);
                }
            }
            clients.iter().zip(tids).for_each(|(client, tid)| client.ack(tid, 3));
            until(&running, "both end", |totals| totals.get(Counter::Done) == 2 * round);
        }
        // Read once in each round.
        assert_eq!(counted.1.load(Ordering::Relaxed), 2);
    });
}
