//! The connection to the host that a client wants: knocked for or plain.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::lookup::{Destination, Lookup};
use super::socks::SocksRefusal;
use crate::client::connect::error::ConnectError;
use crate::client::connect::never_opened::NeverOpened;
use crate::client::connect::plain::{self, PlainError};
use crate::client::connect::race::knock_and_connect;
use crate::client::connect::send_order::Next;
use crate::client::knock::error::KnockError;
use crate::client::knock::knocker::{Knocker, Sent};
use crate::client::knock::profile_lock::{MAX_WAIT, ProfileLock};
use crate::client::knock::profile_match::Host;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::knock::route::Route;
use crate::layout::Request;

/// What connecting needs.
#[derive(Debug)]
pub(super) struct Upstream {
    lookup: Lookup,
    raw: Arc<RawSockets>,
    /// For each profile, by its directory: the last holder of its lock, if its knocks opened nothing.
    failed: Mutex<HashMap<PathBuf, Failed>>,
}

/// A client whose knocks opened nothing.
#[derive(Debug)]
struct Failed {
    when: Instant,
    port: u16,
    why: NeverOpened,
}

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    /// Where it was knocked for: the name of the profile and the number of knocks.
    pub(super) knocked: Option<(String, u32)>,
}

impl Upstream {
    pub(super) fn new(lookup: Lookup, raw: RawSockets) -> Self {
        Self { lookup, raw: Arc::new(raw), failed: Mutex::default() }
    }

    /// Connects to `host`.
    pub(super) async fn connect(&self, host: &Host, port: u16) -> Result<Reached, ConnectError> {
        match self.lookup.find(host, port).await? {
            Destination::Plain(routes) => {
                Ok(Reached { stream: plain::connect(routes).await?, knocked: None })
            }
            Destination::Knock(knocker, routes) => {
                self.knock_and_connect((*knocker).into(), &routes, port).await
            }
        }
    }

    async fn knock_and_connect(
        &self,
        knocker: Arc<Knocker>,
        routes: &[Route],
        port: u16,
    ) -> Result<Reached, ConnectError> {
        let came = Instant::now();
        let _lock = ProfileLock::take(&knocker.dir, MAX_WAIT).await?;
        // A client that waited while another's knocks opened nothing would most likely fail too, and use up as many
        // counters: a browser's connections to a server that is down would soon exceed the server's window.
        if let Some(why) = self.failed_since(&knocker.dir, port, came) {
            return Err(why.into());
        }
        let send = |next| send(Arc::clone(&knocker), Arc::clone(&self.raw), next, Request(port));
        let connected = knock_and_connect(routes, port, knocker.profile.config.layout, send).await;
        self.remember(&knocker.dir, port, connected.as_ref().err());
        let connected = connected?;
        let profile = knocker.profile.name.clone();
        Ok(Reached { stream: connected.stream, knocked: Some((profile, connected.knocks)) })
    }

    fn failed_since(&self, dir: &Path, port: u16, came: Instant) -> Option<NeverOpened> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = failed.get(dir).filter(|last| last.when > came && last.port == port)?;
        Some(last.why.clone())
    }

    fn remember(&self, dir: &Path, port: u16, error: Option<&ConnectError>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(ConnectError::NeverOpened(why)) => {
                let last = Failed { when: Instant::now(), port, why: why.clone() };
                failed.insert(dir.to_owned(), last);
            }
            _ => drop(failed.remove(dir)),
        }
    }
}

/// Sends a knock, or sends one again. On another thread: the counter is synced to a disk, which may be slow.
async fn send(
    knocker: Arc<Knocker>,
    raw: Arc<RawSockets>,
    next: Next<Sent>,
    request: Request,
) -> Result<Sent, ConnectError> {
    let sent = spawn_blocking(move || match next {
        Next::New(route) => knocker.knock(&raw, &route, request),
        Next::Again(sent) => sent.again(&raw).map(|()| sent),
    });
    Ok(sent.await??)
}

/// The nearest reply that SOCKS has.
pub(super) fn refusal(why: &ConnectError) -> SocksRefusal {
    match why {
        ConnectError::NeverOpened(never) => match never.answer {
            Some(Errno::ECONNREFUSED) => SocksRefusal::Refused,
            Some(_) => SocksRefusal::Unreachable,
            None => SocksRefusal::TimedOut,
        },
        ConnectError::Plain(PlainError::Failed(tried)) => {
            let answers = tried.iter().map(|(_, answer)| answer.as_ref());
            match answers.collect::<Option<Vec<_>>>().as_deref() {
                None => SocksRefusal::TimedOut,
                Some([.., last]) if last.kind() == io::ErrorKind::ConnectionRefused => {
                    SocksRefusal::Refused
                }
                Some(_) => SocksRefusal::Unreachable,
            }
        }
        ConnectError::Plain(_)
        | ConnectError::Knock(KnockError::Unresolved(..) | KnockError::NoRoute(..)) => {
            SocksRefusal::Unreachable
        }
        ConnectError::Knock(_) | ConnectError::Lock(_) | ConnectError::Broken(_) => {
            SocksRefusal::Other
        }
    }
}
