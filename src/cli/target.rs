//! The director that a command talks to, and its address.

use super::common::{failed, usage_error};
use guideway_api::Status;
use guideway_daemon::client::{self as control_client, Client, Credentials, Remote};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Default directory of the control sockets of directors and servers.
pub(super) const DIRECTORY: &str = "/run/guideway";

/// Selects the director.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DirectorArgs {
    /// Name of the director; needed only if several run on this host
    #[arg(long, value_name = "NAME", conflicts_with_all = ["socket", "url"])]
    pub(super) director: Option<String>,
    /// Control socket of the director
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub(super) socket: Vec<PathBuf>,
    /// URL of the director, such as https://d1.example:9443; its section [api] must be set
    #[arg(long, value_name = "URL")]
    pub(super) url: Vec<String>,
    /// File with the token for --url
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificate authorities (PEM) of the director's certificate; default: those of the system
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
    /// Client certificate (PEM), if the director requires one
    #[arg(long, value_name = "FILE", requires = "url", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "url", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

impl DirectorArgs {
    /// Returns whether it names one.
    pub(super) fn is_given(&self) -> bool {
        self.director.is_some() || !self.socket.is_empty() || !self.url.is_empty()
    }

    /// Returns the selected director, or the exit code when there is not exactly one.
    pub(super) fn client(&self) -> Result<Client, u8> {
        match self.clients()?.as_slice() {
            [one] => Ok(one.clone()),
            several => Err(usage_error(&format!("{} directors are given; this command takes one", several.len()))),
        }
    }

    /// Returns all named directors; without a name, the only one on this host.
    pub(super) fn clients(&self) -> Result<Vec<Client>, u8> {
        if !self.url.is_empty() {
            let credentials =
                Credentials { token_file: self.token_file.clone(), ca: self.ca.clone(), identity: self.cert.clone().zip(self.key.clone()) };
            let remote = |url: &String| Remote::new(url, &credentials).map(|remote| Client::Remote(Box::new(remote)));
            return self.url.iter().map(remote).collect::<Result<_, _>>().map_err(|error| usage_error(&error.to_string()));
        }
        if !self.socket.is_empty() {
            return Ok(self.socket.iter().map(|path| Client::Socket(path.clone())).collect());
        }
        let socket = match &self.director {
            Some(name) => Path::new(DIRECTORY).join(format!("{name}.sock")),
            None => single_socket(Path::new(DIRECTORY), is_director).map_err(|why| failed(&why))?,
        };
        Ok(vec![Client::Socket(socket)])
    }
}

/// Returns whether a director, not a server, answers at this socket.
fn is_director(socket: &Path) -> bool {
    matches!(control_client::get(socket, "/v1/status"), Ok(Status::Director(_)))
}

/// Returns the socket in `directory`, if there is only one, or only one that is `preferred`.
pub(super) fn single_socket(directory: &Path, preferred: impl Fn(&Path) -> bool) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    // A killed process, or one that has dropped its privileges, leaves a socket file that nothing listens on.
    let answers = |path: &PathBuf| path.extension().is_some_and(|e| e == "sock") && UnixStream::connect(path).is_ok();
    let mut sockets: Vec<PathBuf> = entries.filter(answers).collect();
    sockets.sort();
    if sockets.len() > 1 && sockets.iter().any(|socket| preferred(socket)) {
        sockets.retain(|socket| preferred(socket));
    }
    match sockets.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "no control socket in {} answers; start a director or server, or check the permissions of its socket. One with a `socket` of its \
             own is found by --config or --socket",
            directory.display()
        )),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy()).collect();
            Err(format!("several are running on this host; name one of them: {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn without_a_name_the_only_socket_that_answers_is_used() {
        let directory = tempfile::tempdir().unwrap();
        assert!(single_socket(directory.path(), |_| true).unwrap_err().contains("no control socket"));
        let d1 = UnixListener::bind(directory.path().join("d1.sock")).unwrap();
        drop(UnixListener::bind(directory.path().join("killed.sock")).unwrap());
        assert!(single_socket(directory.path(), |_| true).unwrap().ends_with("d1.sock"));
        let d2 = UnixListener::bind(directory.path().join("d2.sock")).unwrap();
        assert!(single_socket(directory.path(), |_| true).unwrap_err().contains("d1, d2"));
        assert!(single_socket(directory.path(), |_| false).unwrap_err().contains("d1, d2"));
        assert!(single_socket(directory.path(), |socket| socket.ends_with("d2.sock")).unwrap().ends_with("d2.sock"));
        drop((d1, d2));
    }
}
