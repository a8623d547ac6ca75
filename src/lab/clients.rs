//! The TFTP clients that fetch files. A new kind is one more variant here.

use guideway_host::error::Error;
use guideway_testbed::programs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// curl
    Curl,
    /// tftp of tftp-hpa; cannot ask for a block size
    TftpHpa,
    /// atftp
    Atftp,
    /// atftp without any option, so that blocks have 512 bytes: version 0.8 gives up when an OACK comes twice, and then none comes
    AtftpPlain,
    /// tftp of busybox
    Busybox,
    /// `guideway tftp get`
    Guideway,
    /// `guideway tftp put`: sends the file instead
    GuidewayPut,
}

/// One file to fetch, or to send.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    /// From where, or whereto.
    pub vip: IpAddr,
    /// Its name there.
    pub file: &'a str,
    /// Where it goes; of a file to be sent, where it is.
    pub to: &'a Path,
    /// The block size to ask for, where the client can.
    pub blksize: u16,
    /// The window to ask for, where the client can and it is said.
    pub windowsize: Option<u16>,
    /// How long it may take; who takes longer is ended from outside.
    pub timeout: Duration,
}

impl Client {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Client::Curl => "curl",
            Client::TftpHpa => "tftp-hpa",
            Client::Atftp => "atftp",
            Client::AtftpPlain => "atftp-plain",
            Client::Busybox => "busybox",
            Client::Guideway => "guideway",
            Client::GuidewayPut => "guideway-put",
        }
    }

    /// Whether it sends files.
    pub fn uploads(self) -> bool {
        self == Client::GuidewayPut
    }

    /// Its longest first time-out: how long after the last packet that it got it sends its acknowledgement again.
    pub fn retransmit_timeout(self) -> Duration {
        match self {
            // 5 s as it is called here; it counts in whole seconds, must find more than 5 of them over, and looks once a second.
            Client::Curl => Duration::from_secs(7),
            Client::Atftp | Client::AtftpPlain | Client::TftpHpa => Duration::from_secs(5),
            Client::Busybox | Client::Guideway | Client::GuidewayPut => Duration::from_secs(1),
        }
    }

    /// Whether it can ask for a block size. Without, transfers have blocks of 512 bytes (RFC 1350).
    pub fn supports_blksize(self) -> bool {
        !matches!(self, Client::TftpHpa | Client::AtftpPlain)
    }

    /// Where the program is.
    ///
    /// # Errors
    /// [`Error::Missing`] when it is not installed.
    pub fn program(self) -> Result<PathBuf, Error> {
        match self {
            Client::Curl => programs::find("curl", "curl"),
            Client::TftpHpa => programs::find("tftp", "tftp-hpa"),
            Client::Atftp | Client::AtftpPlain => programs::find("atftp", "atftp"),
            Client::Busybox => programs::find("busybox", "busybox"),
            Client::Guideway | Client::GuidewayPut => programs::guideway(),
        }
    }

    /// The command that fetches one file.
    pub fn command(self, program: &Path, fetch: &FetchRequest<'_>) -> Command {
        let mut command = Command::new(program);
        let vip = fetch.vip.to_string();
        let host = if fetch.vip.is_ipv6() { format!("[{vip}]") } else { vip.clone() };
        match self {
            Client::Curl => {
                // -q, first: no ~/.curlrc.
                // -m: without it curl repeats an acknowledgement after 72 s, with 40 s or more after 5 s.
                let most = fetch.timeout.as_secs().max(40).to_string();
                command.args(["-q", "-sS", "-m", &most, "-g", "--noproxy", "*", "--tftp-blksize", &fetch.blksize.to_string(), "-o"]);
                command.arg(fetch.to).arg(format!("tftp://{host}/{}", fetch.file));
            }
            Client::TftpHpa => {
                command.args(["-m", "binary", &vip, "-c", "get", fetch.file]).arg(fetch.to);
            }
            Client::Atftp => {
                if let Some(windowsize) = fetch.windowsize.filter(|blocks| *blocks > 1) {
                    command.args(["--option", &format!("windowsize {windowsize}")]);
                }
                command.args(["--option", &format!("blksize {}", fetch.blksize), "--get", "-r", fetch.file, "-l"]);
                command.arg(fetch.to).args([&vip, "69"]);
            }
            Client::AtftpPlain => {
                command.args(["--get", "-r", fetch.file, "-l"]).arg(fetch.to).args([&vip, "69"]);
            }
            Client::Busybox => {
                command.args(["tftp", "-g", "-b", &fetch.blksize.to_string(), "-r", fetch.file, "-l"]).arg(fetch.to).args([&vip, "69"]);
            }
            Client::Guideway => {
                command.args(["tftp", "get", "--quiet", "--force", "--blksize", &fetch.blksize.to_string()]);
                if let Some(windowsize) = fetch.windowsize {
                    command.args(["--windowsize", &windowsize.to_string()]);
                }
                command.arg("--output");
                command.arg(fetch.to).arg(format!("{host}:{}", fetch.file));
            }
            Client::GuidewayPut => {
                command.args(["tftp", "put", "--quiet", "--blksize", &fetch.blksize.to_string()]);
                command.arg(fetch.to).arg(format!("{host}:{}", fetch.file));
            }
        }
        command
    }
}
