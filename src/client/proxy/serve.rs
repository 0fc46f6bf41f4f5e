//! Accepts clients and moves their bytes.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::auth::Credentials;
use super::http;
use super::socks::{self, NotSocks, Request};
use super::upstream::Upstream;
use crate::client::say;

/// Connections at once; more wait in the kernel's queue until one ends.
pub(super) const MOST_CONNECTIONS: usize = 1024;
/// A client that has not said what it wants by then is gone.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);
/// After SIGTERM, running connections may go on for this long.
const GRACE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors or memory.
const BREATHER: Duration = Duration::from_millis(100);
/// A wrong password costs its sender this long.
const WRONG_PASSWORD: Duration = Duration::from_secs(1);
/// Bytes moved at once, each way.
const CHUNK: usize = 16 * 1024;

/// What every connection needs.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) upstream: Upstream,
    pub(super) auth: Option<Credentials>,
    pub(super) verbose: bool,
}

/// Serves until SIGTERM or SIGINT, then lets running connections finish for a while. A second signal ends it at once.
pub(super) async fn serve(listener: TcpListener, proxy: Proxy) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let proxy = Arc::new(proxy);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
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
        let (count, seconds) = (running.len(), GRACE.as_secs());
        say::tell(format_args!(
            "knock-proxy: no new connections; {count} may finish within {seconds} s"
        ));
    }
    tokio::select! {
        _ = timeout(GRACE, async { while running.join_next().await.is_some() {} }) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The next client, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // Never closed, so there is a permit in the end.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((client, _)) => return (client, permit),
            Err(why) => {
                say::tell(format_args!("knock-proxy: cannot accept: {why}"));
                tokio::time::sleep(BREATHER).await;
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

    /// What the client wants, if it speaks SOCKS. A browser that was told of an HTTP proxy is helped along.
    async fn request(&self, client: TcpStream) -> Result<Request<TcpStream>, NotSocks> {
        let mut first = [0];
        if client.peek(&mut first).await? == 0 {
            return Err(NotSocks("it left without a word".into()));
        }
        match first {
            [b'A'..=b'Z' | b'a'..=b'z'] => {
                http::explain(client).await?;
                Err(NotSocks("HTTP, where SOCKS is spoken: it was told how to set that up".into()))
            }
            [http::TLS] => Err(NotSocks("TLS, where SOCKS is spoken".into())),
            [version] => {
                let wrong = async { tokio::time::sleep(WRONG_PASSWORD).await };
                socks::request(version, client, self.auth.as_ref(), wrong).await
            }
        }
    }

    async fn try_serve(&self, client: TcpStream) -> Result<(), NotSocks> {
        let Ok(request) = timeout(HANDSHAKE_LIMIT, self.request(client)).await else {
            return Ok(());
        };
        let request = request?;
        let (host, port) = (request.host.clone(), request.port);
        let (server, knocked) = match self.upstream.connect(&host, port).await {
            Ok(connected) => connected,
            Err(why) => {
                say::tell(format_args!("knock-proxy: {host} port {port}: {why}"));
                return request.refuse(why.refusal()).await;
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
        relay(client, server).await;
        Ok(())
    }
}

/// Moves bytes both ways until both have ended; an end is passed on as an end. A break is passed on as a break: a
/// client must not take half a file for a whole one.
async fn relay(mut client: TcpStream, mut server: TcpStream) {
    let moved = copy_bidirectional_with_sizes(&mut client, &mut server, CHUNK, CHUNK).await;
    if moved.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}
