//! A holder that machines reach by a network or a socket: a thread for each, a bounded number of them, a bounded time for each.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::address::Timed;
use super::{Address, Given, Holder, HolderError, Stream};

/// Machines that may ask at a time; who comes then is turned away at once.
const MOST: usize = 64;
/// How long one may take: its host connects before it launches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A place where machines ask.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    address: Address,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    /// Listens at an address.
    ///
    /// # Errors
    /// Somebody else does, or may not.
    pub fn listen(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(text) => {
                let listener = TcpListener::bind(text)?;
                let address = Address::Tcp(listener.local_addr()?.to_string());
                let listener = Listener::Tcp(listener);
                Self { listener, address }
            }
            Address::Unix(path) => {
                remove_left_over(path);
                let listener = Listener::Unix(UnixListener::bind(path)?);
                let address = address.clone();
                Self { listener, address }
            }
        })
    }

    /// Returns where it listens; the port is the true one.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Answers machines for ever, and tells `report` of each: by TCP whence it asked, and what came of it.
    ///
    /// # Errors
    /// The listening ended.
    pub fn serve(
        &self,
        holder: &Arc<Holder>,
        report: impl Fn(Option<SocketAddr>, &Result<Given, HolderError>) + Clone + Send + 'static,
    ) -> io::Result<()> {
        let count = Arc::new(AtomicUsize::new(0));
        loop {
            let (stream, whence) = match self.accept() {
                Ok(accepted) => accepted,
                // A client that went away again is none of ours.
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            if count.fetch_add(1, Ordering::SeqCst) >= MOST {
                count.fetch_sub(1, Ordering::SeqCst);
                report(whence, &Err(HolderError::Crowd(MOST)));
                continue;
            }
            let (holder, count, report) = (Arc::clone(holder), Arc::clone(&count), report.clone());
            std::thread::spawn(move || {
                report(whence, &holder.answer(&mut Timed::new(stream, PATIENCE)));
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, whence) = listener.accept()?;
                (Stream::Tcp(stream), Some(whence))
            }
            Listener::Unix(listener) => (Stream::Unix(listener.accept()?.0), None),
        })
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// Removes the socket of a server that ended; one that is in use stays, and binding fails.
fn remove_left_over(path: &Path) {
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        // If it cannot be removed, binding says why.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;
    use crate::attest::RootChoice;

    fn holder() -> Arc<Holder> {
        Arc::new(Holder {
            keys: Arc::default(),
            measurements: Vec::new(),
            certificates: Box::new(|| Ok(Vec::new())),
            root: RootChoice::Amd,
            ledger: None,
        })
    }

    #[test]
    fn each_who_asks_is_answered_and_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let socket = Address::Unix(folder.path().join("keys"));
        for address in [socket, "127.0.0.1:0".parse().unwrap()] {
            let server = Server::listen(&address).unwrap();
            let reached = server.address().clone();
            let (tell, told) = mpsc::channel();
            std::thread::spawn(move || {
                let report = move |_, it: &Result<Given, _>| tell.send(it.is_ok()).unwrap();
                server.serve(&holder(), report)
            });
            // The first holds its connection open, and nobody waits for it.
            let _idle = reached.connect().unwrap();
            let mut second = reached.connect().unwrap();
            second.write_all(b"nonsense, and long enough").unwrap();
            let limit = Duration::from_secs(20);
            assert_eq!(told.recv_timeout(limit), Ok(false));
        }
    }

    #[test]
    fn a_socket_left_over_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("keys"));
        let first = Server::listen(&address).unwrap();
        assert!(Server::listen(&address).is_err());
        drop(first);
        assert!(Server::listen(&address).is_ok());
    }
}
