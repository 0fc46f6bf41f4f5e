//! A connection without a knock, for a host that there is no profile for: `knock -W` can then stand for `nc` under
//! `Host *`. Needs no privilege.
//!
//! The addresses are tried in the resolver's order, each begun when the one before has failed or is slow (RFC 8305), so
//! that one that leads nowhere costs a moment and not minutes.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use crate::client::knock::error::reason;
use crate::client::knock::route::{self as target, Family, NoRoute, Route};

/// No connection after this long: give up.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// An address that has not answered by now gets company from the next.
const NEXT: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// The name has no address.
    Unresolved(io::Error),
    /// No address may be used, or none can be reached.
    NoRoute(NoRoute),
    /// What came of each address that was tried; no answer where there is nothing.
    Failed(Vec<(SocketAddr, Option<io::Error>)>),
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(why) => write!(f, "no address for this name ({})", reason(why)),
            Self::NoRoute(NoRoute::NoneOfThatFamily) => {
                f.write_str("has no address of the family that was asked for (-4, -6, --source)")
            }
            Self::NoRoute(NoRoute::Unreachable(address, why)) => {
                write!(f, "no way to {address} ({})", reason(why))
            }
            Self::Failed(tried) => {
                f.write_str("no connection (")?;
                for (index, (address, answer)) in tried.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    let answer = answer.as_ref().map_or_else(|| "no answer".to_owned(), reason);
                    write!(f, "{comma}{address}: {answer}")?;
                }
                f.write_str(")")
            }
        }
    }
}

/// Connects to `port` of `host`, over an allowed family and, where it is said, from the address `source`.
pub fn connect(
    host: &str,
    port: u16,
    family: Family,
    source: Option<IpAddr>,
) -> Result<TcpStream, NoConnection> {
    let addresses = target::resolve(host, port).map_err(NoConnection::Unresolved)?;
    let routes = target::routes(&addresses, family, source).map_err(NoConnection::NoRoute)?;
    race(routes)
}

/// The first that connects. An attempt that loses is closed by its own thread, or by the end of the program.
fn race(routes: Vec<Route>) -> Result<TcpStream, NoConnection> {
    let end = Instant::now() + TIME_LIMIT;
    let mut tried: Vec<(SocketAddr, Option<io::Error>)> = Vec::new();
    let mut left = routes.into_iter();
    let (tell, told) = mpsc::channel();
    let mut running = 0_usize;
    loop {
        if let Some(route) = left.next() {
            let (tell, index) = (tell.clone(), tried.len());
            tried.push((route.target, None));
            running += 1;
            thread::spawn(move || tell.send((index, dial(&route))));
        } else if running == 0 {
            return Err(NoConnection::Failed(tried));
        }
        let rest = end.saturating_duration_since(Instant::now());
        match told.recv_timeout(if left.len() == 0 { rest } else { rest.min(NEXT) }) {
            Ok((_, Ok(stream))) => return Ok(stream),
            Ok((index, Err(why))) => {
                running -= 1;
                if let Some((_, answer)) = tried.get_mut(index) {
                    *answer = Some(why.into());
                }
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
            Err(_) => return Err(NoConnection::Failed(tried)),
        }
    }
}

/// Connects along `route`, and waits for it as long as the kernel does.
fn dial(route: &Route) -> nix::Result<TcpStream> {
    let (family, source) = match route.source {
        IpAddr::V4(source) => (AddressFamily::Inet, SocketAddr::new(source.into(), 0)),
        // Where it is link-local, it is meant on the target's interface.
        IpAddr::V6(source) => {
            (AddressFamily::Inet6, SocketAddrV6::new(source, 0, 0, route.scope()).into())
        }
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The port is chosen at connect, when the kernel knows the other end too: it has more to choose from.
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(route.target))?;
    Ok(TcpStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn route(address: SocketAddr) -> Route {
        Route { source: address.ip(), target: address }
    }

    /// A port of loopback that nobody listens on.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn an_address_that_refuses_is_passed_over_for_the_next() {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let stream = race(vec![route(closed()), route(listener.local_addr().unwrap())]).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }

    #[test]
    fn a_connection_comes_from_the_source_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = IpAddr::from([127, 0, 0, 7]);
        let stream = connect("127.0.0.1", port, Family::Any, Some(source)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
        assert_eq!(listener.accept().unwrap().1.ip(), source);
    }

    #[test]
    fn what_failed_is_said_of_each_address() {
        let (a, b) = (closed(), closed());
        let text = race(vec![route(a), route(b)]).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("no connection ({a}: Connection refused, {b}: Connection refused)")
        );
        let text = connect("no-such-host.invalid", 22, Family::Any, None).unwrap_err().to_string();
        assert!(text.starts_with("no address for this name ("), "{text}");
        let text = connect("127.0.0.1", 22, Family::V6, None).unwrap_err().to_string();
        assert!(text.contains("-6"), "{text}");
    }
}
