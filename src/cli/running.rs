//! Which running director a command means, and how it is reached.

use super::common::{bad, failed};
use guideway_daemon::client::{self as control_client, Client, Credentials, Remote};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where directors and servers have their control sockets unless their file says otherwise.
pub(super) const DIRECTORY: &str = "/run/guideway";

/// The director that is meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DirectorArgs {
    /// Name of the director; needed only if several run here
    #[arg(long, value_name = "NAME", conflicts_with_all = ["socket", "url"])]
    pub(super) director: Option<String>,
    /// The one with this control socket
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub(super) socket: Vec<PathBuf>,
    /// The one with this URL (https://d1.example:9443), which its section [api] opens
    #[arg(long, value_name = "URL")]
    pub(super) url: Vec<String>,
    /// The file with the token for --url
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) token_file: Option<PathBuf>,
    /// Authorities (PEM) that the director's certificate may be of; those of the system otherwise
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
    /// Our own certificate (PEM), where the director asks for one
    #[arg(long, value_name = "FILE", requires = "url", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "url", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

impl DirectorArgs {
    /// The one director, or the exit code when that cannot be said.
    pub(super) fn client(&self) -> Result<Client, u8> {
        match self.clients()?.as_slice() {
            [one] => Ok(one.clone()),
            several => Err(bad(&format!("{} directors are named; this command asks one", several.len()))),
        }
    }

    /// All that are named; the only one that runs here if none is.
    pub(super) fn clients(&self) -> Result<Vec<Client>, u8> {
        if !self.url.is_empty() {
            let credentials =
                Credentials { token_file: self.token_file.clone(), ca: self.ca.clone(), identity: self.cert.clone().zip(self.key.clone()) };
            let remote = |url: &String| Remote::new(url, &credentials).map(|remote| Client::Remote(Box::new(remote)));
            return self.url.iter().map(remote).collect::<Result<_, _>>().map_err(|error| bad(&error.to_string()));
        }
        if !self.socket.is_empty() {
            return Ok(self.socket.iter().map(|path| Client::Socket(path.clone())).collect());
        }
        let socket = match &self.director {
            Some(name) => Path::new(DIRECTORY).join(format!("{name}.sock")),
            None => only_one(Path::new(DIRECTORY), is_director).map_err(|why| failed(&why))?,
        };
        Ok(vec![Client::Socket(socket)])
    }
}

/// Whether it is a director, and no server, that answers there.
fn is_director(socket: &Path) -> bool {
    control_client::get(socket, "/v1/status").is_ok_and(|status| status["kind"] == "director")
}

/// The socket in `directory`, if there is just one, or just one that is `meant`.
pub(super) fn only_one(directory: &Path, meant: impl Fn(&Path) -> bool) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    // What was killed, or had given up its privileges, leaves a socket behind at which nobody answers.
    let answers = |path: &PathBuf| path.extension().is_some_and(|e| e == "sock") && UnixStream::connect(path).is_ok();
    let mut sockets: Vec<PathBuf> = entries.filter(answers).collect();
    sockets.sort();
    if sockets.len() > 1 && sockets.iter().any(|socket| meant(socket)) {
        sockets.retain(|socket| meant(socket));
    }
    match sockets.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "nobody answers at a control socket in {}; is a director or server running, and may you open its socket? One with a `socket` of its \
             own is found by --config or --socket",
            directory.display()
        )),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy()).collect();
            Err(format!("several run here, name one: {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn without_a_name_the_only_one_that_answers_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_one(directory.path(), |_| true).unwrap_err().contains("nobody answers"));
        let d1 = UnixListener::bind(directory.path().join("d1.sock")).unwrap();
        drop(UnixListener::bind(directory.path().join("killed.sock")).unwrap());
        assert!(only_one(directory.path(), |_| true).unwrap().ends_with("d1.sock"));
        let d2 = UnixListener::bind(directory.path().join("d2.sock")).unwrap();
        assert!(only_one(directory.path(), |_| true).unwrap_err().contains("d1, d2"));
        assert!(only_one(directory.path(), |_| false).unwrap_err().contains("d1, d2"));
        assert!(only_one(directory.path(), |socket| socket.ends_with("d2.sock")).unwrap().ends_with("d2.sock"));
        drop((d1, d2));
    }
}
