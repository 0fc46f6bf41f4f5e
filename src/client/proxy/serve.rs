//! Accepts clients, and takes each from its request to its connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::auth::Credentials;
use super::http;
use super::relay::relay;
use super::socks::{self, SocksError, SocksRequest};
use super::upstream::{Reached, Upstream, refusal};
use crate::client::say;

/// The time that a client has for its request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// After SIGTERM, running connections may go on for this long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The delay after a wrong password.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_secs(1);

/// What a client can take.
#[derive(Debug)]
pub(super) struct ClientLimits {
    /// Connections at once; more wait in the kernel's queue until one ends.
    pub(super) connections: usize,
    /// How long nothing may move on a connection of which one side has ended.
    pub(super) half_closed: Duration,
}

pub(super) const LIMITS: ClientLimits =
    ClientLimits { connections: 1024, half_closed: Duration::from_secs(300) };

/// What every connection needs.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) upstream: Upstream,
    pub(super) auth: Option<Credentials>,
    pub(super) verbose: bool,
    pub(super) limits: ClientLimits,
}

/// Serves until SIGTERM or SIGINT, then lets running connections finish for a while. A second signal ends it at once.
pub(super) async fn serve(listener: TcpListener, proxy: Proxy) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let proxy = Arc::new(proxy);
    let room = Arc::new(Semaphore::new(proxy.limits.connections));
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => {
                let (client, permit) = accepted;
                let proxy = Arc::clone(&proxy);
                running.spawn(async move {
                    proxy.serve_client(client).await;
                    drop(permit);
                });
            }
            Some(_) = running.join_next() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    if !running.is_empty() {
        let (count, seconds) = (running.len(), SHUTDOWN_TIMEOUT.as_secs());
        say::tell(format_args!(
            "knock-proxy: no new connections; {count} may finish within {seconds} s"
        ));
    }
    tokio::select! {
        _ = timeout(SHUTDOWN_TIMEOUT, async { while running.join_next().await.is_some() {} }) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The next client, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // Never closed, so there is a permit in the end.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((client, _)) => return (client, permit),
            Err(why) => {
                say::tell(format_args!("knock-proxy: cannot accept: {why}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Proxy {
    async fn serve_client(&self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        if let Err(why) = self.try_serve(client).await
            && self.verbose
        {
            say::tell(format_args!(
                "knock-proxy: a client was not served: {}",
                why.to_string().escape_debug()
            ));
        }
    }

    /// The client's request, if it speaks SOCKS. A browser that is configured to use this as an HTTP proxy gets an
    /// explanation.
    async fn request(&self, client: TcpStream) -> Result<SocksRequest<TcpStream>, SocksError> {
        let mut first = [0];
        if client.peek(&mut first).await? == 0 {
            return Err(SocksError::Silent);
        }
        match first {
            [b'A'..=b'Z' | b'a'..=b'z'] => {
                http::explain(client).await?;
                Err(SocksError::Http)
            }
            [http::TLS] => Err(SocksError::Tls),
            [version] => {
                let wrong = async { tokio::time::sleep(WRONG_PASSWORD_PAUSE).await };
                socks::request(version, client, self.auth.as_ref(), wrong).await
            }
        }
    }

    async fn try_serve(&self, client: TcpStream) -> Result<(), SocksError> {
        // A second descriptor of the same socket: the first is with the request until that is answered.
        let watched = client.as_fd().try_clone_to_owned()?;
        let Ok(request) = timeout(HANDSHAKE_TIMEOUT, self.request(client)).await else {
            return Ok(());
        };
        let request = request?;
        let watched = TcpStream::from_std(watched.into())?;
        let (host, port) = (request.host.clone(), request.port);
        let connected = tokio::select! {
            connected = self.upstream.connect(&host, port) => connected,
            () = hung_up(&watched) => {
                if self.verbose {
                    say::tell(format_args!(
                        "knock-proxy: {host} port {port}: the client hung up before there was a connection"
                    ));
                }
                return Ok(());
            }
        };
        let Reached { stream: server, knocked } = match connected {
            Ok(reached) => reached,
            Err(why) => {
                say::error("knock-proxy", &format!("{host} port {port}: {why}"), why.hint());
                return request.refuse(refusal(&why)).await;
            }
        };
        if self.verbose {
            match knocked {
                Some((profile, knocks)) => say::tell(format_args!(
                    "knock-proxy: {host} port {port}: connected with profile {profile:?} (knocks: {knocks})"
                )),
                None => say::tell(format_args!("knock-proxy: {host} port {port}: connected")),
            }
        }
        let client = request.succeed(server.local_addr()?).await?;
        drop(watched);
        relay(client, server, self.limits.half_closed).await;
        Ok(())
    }
}

/// Waits until `client` hangs up: its connection is reset, or ends without a byte behind its request.
///
/// If bytes follow the request, the end may be a half-close: the client has sent everything and waits for the answer.
async fn hung_up(client: &TcpStream) {
    if matches!(client.peek(&mut [0]).await, Ok(1..)) {
        let _ = client.ready(Interest::ERROR).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::raw_socket::RawSockets;
    use crate::client::proxy::lookup::Lookup;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SOON: Duration = Duration::from_secs(20);

    /// A proxy without profiles.
    async fn proxy(limits: ClientLimits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Upstream::new(Lookup::new("/nonexistent".into()), RawSockets::default());
        let proxy = Proxy { upstream, auth: None, verbose: false, limits };
        tokio::spawn(serve(listener, proxy));
        address
    }

    /// A server that sends nothing and never closes a connection.
    async fn stubborn() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(accepted) = listener.accept().await {
                held.push(accepted);
            }
        });
        address
    }

    /// A client of the proxy whose connection to `server` stands.
    async fn connected(proxy: SocketAddr, server: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(proxy).await.unwrap();
        let port = server.port().to_be_bytes();
        let request = [&[4, 1], &port[..], &[127, 0, 0, 1, 0]].concat();
        client.write_all(&request).await.unwrap();
        let mut reply = [0; 8];
        timeout(SOON, client.read_exact(&mut reply)).await.expect("there is room").unwrap();
        assert_eq!(reply[1], 90);
        client
    }

    #[tokio::test]
    async fn clients_that_left_make_room_for_others_though_their_servers_hold_on() {
        let limits = ClientLimits { connections: 16, half_closed: Duration::from_millis(50) };
        let (proxy, server) = (proxy(limits).await, stubborn().await);
        for _ in 0..3 {
            let mut clients = Vec::new();
            for _ in 0..16 {
                clients.push(connected(proxy, server).await);
            }
            drop(clients);
        }
        connected(proxy, server).await;
    }

    #[tokio::test]
    async fn a_client_hangs_up_by_an_end_or_by_a_reset() {
        for reset in [false, true] {
            for bytes_waiting in [false, true] {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let mut client = TcpStream::connect(address).await.unwrap();
                let (accepted, _) = listener.accept().await.unwrap();
                if bytes_waiting {
                    client.write_all(b"early").await.unwrap();
                }
                let pause = Duration::from_millis(50);
                assert!(timeout(pause, hung_up(&accepted)).await.is_err(), "it is there");
                if reset {
                    client.set_zero_linger().unwrap();
                    drop(client);
                    timeout(SOON, hung_up(&accepted)).await.expect("it has hung up");
                } else if bytes_waiting {
                    client.shutdown().await.unwrap();
                    assert!(timeout(pause, hung_up(&accepted)).await.is_err(), "it waits");
                } else {
                    client.shutdown().await.unwrap();
                    timeout(SOON, hung_up(&accepted)).await.expect("it has hung up");
                }
            }
        }
    }
}
