//! Serves the files of a directory and logs every transfer.
//!
//! ```text
//! cargo run -p guideway-tftp --example static_files -- --listen 0.0.0.0:69 --root /srv/tftp
//! ```

use guideway_tftp::directory::{Directory, DirectoryOptions};
use guideway_tftp::{Config, Observer, Server, TransferReport};
use std::error::Error;

/// Writes one line for each transfer.
struct Log;

impl Observer for Log {
    fn finished(&self, report: &TransferReport) {
        let file = report.file().escape_ascii();
        println!("{} client={} file={file} bytes={}", report.outcome.name(), report.client, report.bytes_sent);
    }
}

/// Returns the value of `--name VALUE`, or a default.
fn argument(name: &str, default: &str) -> String {
    std::env::args().skip_while(|argument| argument != name).nth(1).unwrap_or_else(|| default.to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let listen = argument("--listen", "127.0.0.1:6969").parse()?;
    let files = Directory::new(argument("--root", "."), DirectoryOptions::default())?;

    // The sockets are bound here: a server that was started as root drops its privileges between the two calls.
    let server = Server::bind(Config::listen(listen), files, Log)?;
    println!("listening on {}", server.addresses()[0]);
    let _running = server.start()?;
    loop {
        std::thread::park();
    }
}
