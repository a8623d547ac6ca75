//! The control socket's file: private, taken over from a daemon that has died, and removed at the end.

use nix::sys::stat::{Mode, umask};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time that the kernel needs to end a killed daemon with its frame memory, and interval of the question whether it has.
const DEATH_TIMEOUT: Duration = Duration::from_secs(2);
const DEATH_PAUSE: Duration = Duration::from_millis(20);

/// Why the control socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon listens on it.
    #[error("another director or server answers on {}: stop it first, or give this one another `name` or `socket`", .0.display())]
    InUse(PathBuf),
    /// A file of another kind has this path.
    #[error("{} exists and is not a socket: remove it, or set another `socket`", .0.display())]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("cannot create the control socket {}: {error}; set another path in `socket`", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
}

/// A listening control socket; dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Creates the socket with mode 0600, and its directory if it is missing. Must be called before other threads start: the umask belongs
    /// to the process.
    ///
    /// # Errors
    /// Returns an error when a daemon already listens there or the path cannot be used.
    pub fn claim(path: &Path) -> Result<ControlSocket, Error> {
        let failed = |error| Error::System { path: path.to_owned(), error };
        match path.symlink_metadata() {
            Ok(found) if !found.file_type().is_socket() => return Err(Error::NoSocket(path.to_owned())),
            Ok(_) => {
                // A daemon that was killed a moment ago may still listen: the kernel takes its memory away before its sockets.
                let deadline = Instant::now() + DEATH_TIMEOUT;
                while UnixStream::connect(path).is_ok() {
                    if Instant::now() > deadline {
                        return Err(Error::InUse(path.to_owned()));
                    }
                    std::thread::sleep(DEATH_PAUSE);
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory).map_err(failed)?;
                }
            }
            Err(e) => return Err(failed(e)),
        }
        // Must be set before the file exists: between bind and chmod any process could connect.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        Ok(ControlSocket { path: path.to_owned(), listener: listener.map_err(failed)? })
    }

    /// Returns a listener for the runtime of this thread.
    pub fn listener(&self) -> std::io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.std_listener()?)
    }

    /// Returns a listener for a runtime of other threads.
    pub fn std_listener(&self) -> std::io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_one_director_has_the_socket_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/guideway/d1.sock");
        let first = ControlSocket::claim(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(ControlSocket::claim(&path), Err(Error::InUse(_))));
        assert!(path.exists(), "the refused daemon has not removed it");
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file of a killed director stays");
        let again = ControlSocket::claim(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(again);
        // What a killed daemon leaves listening for a moment.
        let dying = UnixListener::bind(&path).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(DEATH_PAUSE * 10);
            drop(dying);
        });
        drop(ControlSocket::claim(&path).unwrap());
        end.join().unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::claim(&path), Err(Error::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
