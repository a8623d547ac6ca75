//! Reports to an HTTP service: batches of lines, with a bounded number of further attempts.

use super::outage::Outage;
use super::queue::{Line, Sink};
use guideway_tftp::handlers::client::{Client, HttpError};
use http::{StatusCode, Uri};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Handle;

/// The media type of JSON in lines.
const CONTENT_TYPE: &str = "application/x-ndjson";
/// Wait before the second attempt; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Settings of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its URL.
    pub url: Uri,
    /// File of trusted authorities, for https; `None` for those of the host.
    pub ca: Option<PathBuf>,
    /// Longest time until it has answered.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Largest number of reports in one request.
    pub batch: usize,
    /// How long a report waits for others.
    pub interval: Duration,
}

/// Posts lines.
pub struct HookSink {
    settings: Settings,
    client: Client,
    runtime: Handle,
    outage: Outage,
}

impl HookSink {
    /// Creates a client.
    ///
    /// # Errors
    /// When an authority for https cannot be read.
    pub fn new(settings: Settings, runtime: &Handle) -> io::Result<HookSink> {
        let client = Client::new(&settings.url, settings.ca.as_deref(), settings.timeout)?;
        Ok(HookSink { settings, client, runtime: runtime.clone(), outage: Outage::default() })
    }

    /// Posts once. Returns whether another attempt may help, and the reason, when the service has not taken the lines.
    fn post(&self, body: Vec<u8>) -> Result<(), (bool, String)> {
        let post = async { tokio::time::timeout(self.settings.timeout, self.client.post(&self.settings.url, CONTENT_TYPE, body)).await };
        match self.runtime.block_on(post) {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => {
                let temporary = status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
                Err((temporary, format!("status {status}")))
            }
            Ok(Err(error)) => Err((true, error.to_string())),
            Err(_) => Err((true, HttpError::TimedOut(self.settings.timeout).to_string())),
        }
    }
}

impl Sink for HookSink {
    fn deliver(&mut self, lines: &[Line], pause: &dyn Fn(Duration) -> bool) -> usize {
        let body: Vec<u8> = lines.iter().flat_map(|line| line.bytes()).collect();
        let mut wait = FIRST_PAUSE;
        for attempt in 0.. {
            match self.post(body.clone()) {
                Ok(()) => break,
                Err((true, _)) if attempt < self.settings.retries && pause(wait) => wait = (2 * wait).min(MAX_PAUSE),
                Err((_, why)) => {
                    self.outage.update(&self.settings.url, Some(why));
                    return 0;
                }
            }
        }
        self.outage.update(&self.settings.url, None);
        lines.len()
    }
}
