//! The connection to the host that a client wants: knocked for or plain.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::lookup::{Destination, Lookup};
use super::socks::Refusal;
use crate::client::connect::race::{Connected, NeverOpened, knock_and_connect};
use crate::client::knock::error::{Failure, reason};
use crate::client::knock::knocker::Knocker;
use crate::client::knock::profile_lock::{LONGEST_WAIT, NoTurn, Turn};
use crate::client::knock::profile_match::Host;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::knock::route::Route;
use crate::layout::Request;

/// No plain connection after this long: give up.
const PLAIN_LIMIT: Duration = Duration::from_secs(30);
/// A plain address that has not answered by now gets company from the next (RFC 8305).
const PLAIN_NEXT: Duration = Duration::from_millis(250);

/// What connecting needs.
#[derive(Debug)]
pub(super) struct Upstream {
    lookup: Arc<Lookup>,
    raw: Arc<RawSockets>,
    /// One turn a profile in this process, so that those who wait for the profile's own turn hold no thread each.
    turns: Mutex<HashMap<PathBuf, Arc<Mutex<Option<Failed>>>>>,
}

/// What became of the last one that had its profile's turn, if nobody let it in.
#[derive(Debug)]
struct Failed {
    when: Instant,
    port: u16,
    why: NeverOpened,
}

/// Why a client gets no connection: for the log, and for the client.
#[derive(Debug)]
pub(super) enum NoConnection {
    Knock(Failure),
    Plain(io::Error),
    TimedOut,
    /// A thread of ours died.
    Broken,
}

impl std::fmt::Display for NoConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Knock(failure) => failure.fmt(f),
            Self::Plain(why) => f.write_str(&reason(why)),
            Self::TimedOut => write!(f, "no answer in {} s", PLAIN_LIMIT.as_secs()),
            Self::Broken => f.write_str("an error in knock-proxy itself"),
        }
    }
}

impl NoConnection {
    /// The nearest thing that SOCKS can say.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::Knock(Failure::NeverOpened(never)) => match never.answer {
                Some(Errno::ECONNREFUSED) => Refusal::Refused,
                Some(_) => Refusal::Unreachable,
                None => Refusal::TimedOut,
            },
            Self::Plain(why) if why.kind() == io::ErrorKind::ConnectionRefused => Refusal::Refused,
            Self::Plain(_)
            | Self::Knock(
                Failure::Unresolved(..) | Failure::NoAddress(..) | Failure::NoRoute(..),
            ) => Refusal::Unreachable,
            Self::TimedOut => Refusal::TimedOut,
            Self::Knock(_) | Self::Broken => Refusal::Other,
        }
    }
}

impl Upstream {
    pub(super) fn new(lookup: Lookup, raw: RawSockets) -> Self {
        Self { lookup: Arc::new(lookup), raw: Arc::new(raw), turns: Mutex::default() }
    }

    /// Connects to `host` and says whether it was knocked for: the name of the profile and the number of knocks.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: u16,
    ) -> Result<(TcpStream, Option<(String, u32)>), NoConnection> {
        let (lookup, wanted) = (Arc::clone(&self.lookup), host.clone());
        let destination = blocking(move || lookup.find(&wanted, port)).await?;
        match destination {
            Destination::Plain(addresses) => Ok((plain(addresses).await?, None)),
            Destination::Knock(knocker, routes) => self.knocked(*knocker, routes, port).await,
        }
    }

    async fn knocked(
        &self,
        knocker: Knocker,
        routes: Vec<Route>,
        port: u16,
    ) -> Result<(TcpStream, Option<(String, u32)>), NoConnection> {
        let name = knocker.profile.name.clone();
        let dir = knocker.dir.clone();
        let ours = Arc::clone(self.turns.lock().await.entry(dir.clone()).or_default());
        let came = Instant::now();
        let Ok(mut last) = timeout(LONGEST_WAIT, ours.lock()).await else {
            let busy = NoTurn::Busy(dir, LONGEST_WAIT);
            return Err(NoConnection::Knock(Failure::NoTurn(busy)));
        };
        // Who has waited while the door stayed shut would find it so, and spend as many counters on it: a browser's
        // connections to a server that is down would soon be more than the server's window.
        if let Some(Failed { why, .. }) =
            last.as_ref().filter(|failed| failed.when > came && failed.port == port)
        {
            return Err(NoConnection::Knock(Failure::NeverOpened(why.clone())));
        }
        let raw = Arc::clone(&self.raw);
        let connected: Result<Connected, _> = blocking(move || {
            let _turn = Turn::take(&dir, LONGEST_WAIT).map_err(Failure::NoTurn)?;
            knock_and_connect(&routes, port, |next| knocker.send_next(&raw, next, Request(port)))
        })
        .await;
        *last = match &connected {
            Err(NoConnection::Knock(Failure::NeverOpened(why))) => {
                Some(Failed { when: Instant::now(), port, why: why.clone() })
            }
            _ => None,
        };
        let connected = connected?;
        connected.stream.set_nonblocking(true).map_err(NoConnection::Plain)?;
        let stream = TcpStream::from_std(connected.stream).map_err(NoConnection::Plain)?;
        Ok((stream, Some((name, connected.knocks))))
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, NoConnection> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(NoConnection::Knock),
        Err(_) => Err(NoConnection::Broken),
    }
}

async fn plain(addresses: Vec<SocketAddr>) -> Result<TcpStream, NoConnection> {
    match timeout(PLAIN_LIMIT, race(addresses)).await {
        Ok(Ok(stream)) => {
            // Both ends are programs that decide for themselves when to send.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(why)) => Err(NoConnection::Plain(why)),
        Err(_) => Err(NoConnection::TimedOut),
    }
}

/// The first of `addresses` that connects, each begun when the one before has failed or is slow.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match left.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
            }
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(why)) => failed = why,
                Err(_) => {}
            },
            () = sleep(PLAIN_NEXT), if left.len() > 0 => {}
        }
    }
}
