//! One attempt at a connection, from the address that was knocked from: the grant is for no other.

use std::io;
use std::os::linux::net::TcpStreamExt;

use nix::libc::linger;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::knock::route::Route;

/// Connects to `port` along `route`.
pub(super) async fn dial(route: &Route, port: u16) -> io::Result<TcpStream> {
    connect(socket(route)?, route, port).await
}

/// A connection that the server does not have yet: the last ACK of its handshake is held back.
///
/// A grant ends after as many connections as there were knocks, and one of these may be another client's. Of our
/// attempts only one may count, so the others end first: when this is dropped, it resets the half-open connection at
/// the server.
#[derive(Debug)]
pub(super) struct Unconfirmed(TcpStream);

impl Unconfirmed {
    /// Connects to `port` along `route`, all but the last step.
    pub(super) async fn dial(route: &Route, port: u16) -> io::Result<Self> {
        let socket = socket(route)?;
        // The kernel then waits for data to send that ACK with, 200 ms at most.
        socket.set_quickack(false)?;
        setsockopt(&socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        connect(socket, route, port).await.map(Self)
    }

    /// Lets the ACK go.
    pub(super) fn confirm(self) -> io::Result<TcpStream> {
        setsockopt(&self.0, sockopt::Linger, &linger { l_onoff: 0, l_linger: 0 })?;
        self.0.set_quickack(true)?;
        Ok(self.0)
    }
}

fn socket(route: &Route) -> io::Result<std::net::TcpStream> {
    let family = if route.target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    // The port is chosen at connect, when the kernel knows the other end too: it has more to choose from.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    Ok(socket.into())
}

async fn connect(socket: std::net::TcpStream, route: &Route, port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket);
    socket.bind(route.local())?;
    socket.connect(route.target_at(port)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::TcpListener;

    fn listener() -> (TcpListener, Route, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let target = listener.local_addr().unwrap();
        (listener, Route { source: target.ip(), target }, target.port())
    }

    #[tokio::test]
    async fn a_connection_is_the_server_s_only_once_it_is_confirmed() {
        let (listener, route, port) = listener();
        let unconfirmed = Unconfirmed::dial(&route, port).await.unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let stream = unconfirmed.confirm().unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn one_that_is_dropped_is_never_the_server_s() {
        let (listener, route, port) = listener();
        drop(Unconfirmed::dial(&route, port).await.unwrap());
        // Longer than the kernel holds an ACK back.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
