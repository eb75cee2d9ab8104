//! Where a key server is: a TCP port or a Unix socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Where a key server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String),
    /// A socket's file.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match port.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(_)) => Ok(Self::Tcp(text.to_owned())),
            _ => Err("give HOST:PORT, or unix: and a path".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Connects to it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(text) => TcpStream::connect(text).map(Stream::Tcp),
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// By TCP.
    Tcp(TcpStream),
    /// By a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Returns the same connection once more.
    ///
    /// # Errors
    /// The process has too many files.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Has reads and writes fail that take longer; without a time they never do.
    ///
    /// # Errors
    /// The time is none.
    pub fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(time)?;
                stream.set_write_timeout(time)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(time)?;
                stream.set_write_timeout(time)
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// A connection with an end, however slowly the other side sends.
#[derive(Debug)]
pub(super) struct Timed {
    stream: Stream,
    until: Instant,
}

impl Timed {
    pub(super) fn new(stream: Stream, time: Duration) -> Self {
        let until = Instant::now() + time;
        Self { stream, until }
    }

    fn limit(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.limit(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        let port: Address = "keys.example:7777".parse().unwrap();
        assert_eq!(port, Address::Tcp("keys.example:7777".to_owned()));
        let socket: Address = "unix:/run/keys".parse().unwrap();
        assert_eq!(socket, Address::Unix("/run/keys".into()));
        assert_eq!(socket.to_string(), "unix:/run/keys");
        for nonsense in [
            "",
            "unix:",
            "keys",
            ":1",
            "keys:",
            "keys:port",
            "keys:99999",
        ] {
            assert!(nonsense.parse::<Address>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn one_byte_at_a_time_does_not_hold_a_connection_open() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut timed = Timed::new(Stream::Unix(ours), Duration::from_millis(200));
        let begun = Instant::now();
        let sender = std::thread::spawn(move || {
            while begun.elapsed() < Duration::from_secs(5) && theirs.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert!(timed.read_exact(&mut [0; 1000]).is_err());
        assert!(begun.elapsed() < Duration::from_secs(3));
        drop(timed);
        sender.join().unwrap();
    }
}
