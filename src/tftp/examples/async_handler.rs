//! Answers requests by a future: the content of a file comes from another service over the network.
//!
//! The service listens on TCP. It gets the name of the file on a line and sends the content; no content means that there is no such file.
//!
//! ```text
//! cargo run -p guideway-tftp --example async_handler -- --listen 0.0.0.0:69 --service 192.0.2.10:7000
//! ```

use guideway_tftp::{Bytes, Config, Handler, Opened, Opening, Refusal, Request, Server};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};

/// The longest time that the service may take. Clients send their request again meanwhile, which starts no second query.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the service for every file.
struct Remote {
    runtime: Handle,
    service: SocketAddr,
}

impl Handler for Remote {
    fn open(&self, request: &Request<'_>) -> Opening {
        // The request is borrowed from the datagram. A future keeps what it needs.
        let query = query(self.service, request.name().into_owned());
        // The event loop polls the future that it is given. Sockets and timers of Tokio need Tokio's threads, so the query runs there.
        let task = self.runtime.spawn(async { tokio::time::timeout(PATIENCE, query).await });
        Opening::later(async move {
            match task.await {
                Ok(Ok(opened)) => opened,
                Ok(Err(_elapsed)) => Err(Refusal::silent()),
                Err(_panicked) => Err(Refusal::failed("the server failed")),
            }
        })
    }
}

/// Gets a file from the service. On failure the client gets no answer and repeats its request.
async fn query(service: SocketAddr, name: String) -> Opened {
    let content = fetch(service, &name).await.map_err(|error| {
        eprintln!("{name}: {error}");
        Refusal::silent()
    })?;
    if content.is_empty() { Err(Refusal::not_found()) } else { Ok(Arc::new(Bytes::new(content))) }
}

async fn fetch(service: SocketAddr, name: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(service).await?;
    stream.write_all(format!("{}\n", name.escape_default()).as_bytes()).await?;
    let mut content = Vec::new();
    stream.read_to_end(&mut content).await?;
    Ok(content)
}

fn argument(name: &str, default: &str) -> String {
    std::env::args().skip_while(|argument| argument != name).nth(1).unwrap_or_else(|| default.to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let remote = Remote { runtime: runtime.handle().clone(), service: argument("--service", "127.0.0.1:7000").parse()? };
    let config = Config::listen(argument("--listen", "127.0.0.1:6969").parse()?);
    let server = Server::bind(config, Arc::new(remote), Arc::new(()))?;
    println!("listening on {}", server.addresses()[0]);
    let _running = server.start()?;
    loop {
        std::thread::park();
    }
}
