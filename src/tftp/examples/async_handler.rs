//! Answers requests by a future: the content of a file comes from another service over the network, while it arrives.
//!
//! The service listens on TCP. It gets the name of the file on a line and sends the content; no content means that there is no such file.
//!
//! ```text
//! cargo run -p guideway-tftp --example async_handler -- --listen 0.0.0.0:69 --service 192.0.2.10:7000
//! ```

use guideway_tftp::{Config, Content, Handler, Refusal, Request, Server};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest time that the service may take to begin. Clients send their request again meanwhile, which starts no second query.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the service for every file.
struct Remote {
    service: SocketAddr,
}

impl Handler for Remote {
    async fn open(&self, request: Request) -> Result<Content, Refusal> {
        let name = request.name();
        match tokio::time::timeout(PATIENCE, fetch(self.service, &name)).await {
            Ok(Ok(content)) => content.ok_or_else(Refusal::not_found),
            // On failure the client gets no answer and repeats its request.
            Ok(Err(error)) => {
                eprintln!("{name}: {error}");
                Err(Refusal::silent())
            }
            Err(_elapsed) => Err(Refusal::silent()),
        }
    }
}

/// Gets a file from the service; `None` if it has none.
async fn fetch(service: SocketAddr, name: &str) -> io::Result<Option<Content>> {
    let mut stream = TcpStream::connect(service).await?;
    stream.write_all(format!("{}\n", name.escape_default()).as_bytes()).await?;
    let mut first = [0; 1];
    if stream.read(&mut first).await? == 0 {
        return Ok(None);
    }
    // Its length is not known; blocks are sent as they arrive.
    Ok(Some(Content::reader(io::Cursor::new(first).chain(stream), None)))
}

fn argument(name: &str, default: &str) -> String {
    std::env::args().skip_while(|argument| argument != name).nth(1).unwrap_or_else(|| default.to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let remote = Remote { service: argument("--service", "127.0.0.1:7000").parse()? };
    let config = Config::listen(argument("--listen", "127.0.0.1:6969").parse()?);
    let server = Server::bind(config, remote, ())?;
    println!("listening on {}", server.addresses()[0]);
    Ok(server.serve().await?)
}
