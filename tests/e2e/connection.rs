//! Connections between the hosts of a test network: made, refused, echoed. Owns listeners of its own only.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::net::Host;
use crate::process::{SOON, wait_until};

/// What came of trying to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The connection stood.
    Connected,
    /// An RST, or an ICMP error that says the port or host is not to be had.
    Refused,
    /// Nothing came back in time.
    TimedOut,
}

impl Host {
    /// Connects to a port, within `time`.
    pub(crate) fn connect(
        &self,
        to: IpAddr,
        port: u16,
        time: Duration,
    ) -> Result<TcpStream, Reach> {
        let answer = self.inside(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), time));
        answer.map_err(|error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Reach::TimedOut,
            // The last one is ICMPv6's "administratively prohibited".
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::PermissionDenied => Reach::Refused,
            _ => panic!("connecting to {to} port {port}: {error}"),
        })
    }

    /// Whether a port can be connected to, within `time`. The connection is closed again.
    pub(crate) fn can_connect(&self, to: IpAddr, port: u16, time: Duration) -> Reach {
        self.connect(to, port, time).map_or_else(|failed| failed, |_stream| Reach::Connected)
    }

    /// Makes a socket of this host with a port of its own. A port that a test has just let go can be in use for a moment:
    /// a process that another test starts holds a copy of each socket until it runs its program.
    pub(crate) fn bind<T: Send>(&self, bind: impl Fn() -> std::io::Result<T> + Sync) -> T {
        let mut bound = None;
        wait_until(SOON, "the port", || {
            bound = match self.inside(&bind) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => None,
                made => Some(made.unwrap()),
            };
            bound.is_some()
        });
        bound.unwrap()
    }

    /// Listens on a port, both families, and sends back whatever comes.
    pub(crate) fn echo(&self, port: u16) -> Echo {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = Arc::new(self.bind(|| TcpListener::bind(any)));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (socket, count) = (Arc::clone(&listener), Arc::clone(&accepted));
        thread::spawn(move || {
            // Ends when `Echo` is dropped, which shuts the listening socket down.
            while let Ok((stream, _)) = socket.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        Echo { listener, accepted }
    }
}

/// A listening port; see [`Host::echo`].
pub(crate) struct Echo {
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicUsize>,
}

impl Echo {
    /// How many connections have been accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd as _;
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// Whether a connection to an [`Echo`] still carries bytes, there and back.
pub(crate) fn is_alive(mut stream: &TcpStream) -> bool {
    let mut back = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"ping"
}

/// Says that nothing more will be sent, so that an [`Echo`] lets go of the connection.
pub(crate) fn hang_up(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
