//! Reports to a Unix datagram socket. A datagram is a whole report or none, and a receiver that restarts needs no framing.

use super::outage::Outage;
use super::queue::{Line, Sink};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a report waits for a receiver that does not read. The queue takes others meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends each line as a datagram.
pub struct SocketSink {
    path: PathBuf,
    socket: UnixDatagram,
    outage: Outage,
}

impl SocketSink {
    /// Opens a socket. The receiver need not exist yet.
    ///
    /// # Errors
    /// When the process lacks a descriptor.
    pub fn open(path: &Path) -> io::Result<SocketSink> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(SocketSink { path: path.to_owned(), socket, outage: Outage::default() })
    }
}

impl Sink for SocketSink {
    fn deliver(&mut self, lines: &[Line], _: &dyn Fn(Duration) -> bool) -> usize {
        let sent = lines.iter().map(|line| self.socket.send_to(line.as_bytes(), &self.path));
        let (mut count, mut failed) = (0, None);
        for result in sent {
            match result {
                Ok(_) => count += 1,
                // Without a receiver, or with one that hangs, the others would fail, too.
                Err(error) => {
                    failed = Some(error.to_string());
                    break;
                }
            }
        }
        self.outage.update(&self.path.display(), failed);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_may_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("collector");
        let mut sink = SocketSink::open(&path).unwrap();
        let lines: [Line; 2] = ["{\"a\":1}\n".into(), "{\"a\":2}\n".into()];
        for _ in 0..2 {
            assert_eq!(sink.deliver(&lines, &|_| false), 0, "nobody listens");
            let receiver = UnixDatagram::bind(&path).unwrap();
            assert_eq!(sink.deliver(&lines, &|_| false), 2);
            let mut buffer = [0; 100];
            for line in &lines {
                let length = receiver.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], line.as_bytes());
            }
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_receiver_that_does_not_read_costs_a_second_and_the_rest_of_a_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("collector");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let mut sink = SocketSink::open(&path).unwrap();
        let lines: Vec<Line> = (0..2000).map(|_| "x\n".into()).collect();
        let began = std::time::Instant::now();
        let sent = sink.deliver(&lines, &|_| false);
        assert!(sent < 2000 && began.elapsed() < 5 * PATIENCE, "{sent} after {:?}", began.elapsed());
    }
}
