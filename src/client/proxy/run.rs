//! What `knock-proxy` does from its command line until it serves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::auth::{AuthError, Credentials};
use super::cli::ProxyCli;
use super::lookup::Lookup;
use super::serve::{LIMITS, Proxy, serve};
use super::upstream::Upstream;
use crate::client::knock::capabilities;
use crate::client::knock::error::KnockError;
use crate::client::knock::knocker::default_profiles;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::say::{self, reason};

/// Descriptors of a connection at its busiest: the client, twice, and the attempts that race for the server.
const DESCRIPTORS_EACH: u64 = 5;

/// Why the proxy does not serve.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error(transparent)]
    Knock(#[from] KnockError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("no port")]
    NoPort,
    #[error("cannot listen on {0} ({why})", why = reason(.1))]
    Listen(SocketAddr, io::Error),
    #[error("what systemd handed over is no TCP socket ({})", reason(.0))]
    HandedOver(io::Error),
    #[error("cannot serve ({})", reason(.0))]
    Runtime(#[from] io::Error),
}

impl ProxyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Knock(error) => error.hint(),
            Self::Auth(error) => error.hint(),
            Self::NoPort => Some("use knock-proxy PORT, as in knock-proxy 1080".to_owned()),
            Self::Listen(..) | Self::HandedOver(_) | Self::Runtime(_) => None,
        }
    }
}

/// Runs `knock-proxy` until it is told to end.
#[must_use]
pub fn run(cli: &ProxyCli) -> ExitCode {
    if let Some(shell) = cli.completions {
        return say::completions(shell, &mut ProxyCli::command());
    }
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error("knock-proxy", &why, why.hint());
            ExitCode::from(if matches!(why, ProxyError::NoPort) { 2 } else { 1 })
        }
    }
}

fn start(cli: &ProxyCli) -> Result<(), ProxyError> {
    // The process has one thread and has read no input: open the raw sockets, which need the capability, then drop it
    // for good.
    let raw = RawSockets::open().map_err(KnockError::raw_socket)?;
    capabilities::drop_all(true).map_err(KnockError::from)?;

    let profiles = cli.profiles.clone().map_or_else(default_profiles, Ok)?;
    let auth = cli.auth.as_deref().map(Credentials::read).transpose()?;
    let listener = listen(cli)?;
    allow_many_descriptors();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstream = Upstream::new(Lookup::new(profiles), raw);
    let proxy = Proxy { upstream, auth, verbose: cli.verbose, limits: LIMITS };
    let served = runtime.block_on(async {
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        warn_about(address, proxy.auth.is_some());
        say::tell(format_args!("knock-proxy: ready on {address}"));
        serve(listener, proxy).await
    });
    // Do not wait for threads that hang in the resolver.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(served?)
}

/// The socket that systemd hands over, or one of our own.
fn listen(cli: &ProxyCli) -> Result<TcpListener, ProxyError> {
    let handed_over = ListenFd::from_env().take_tcp_listener(0).map_err(ProxyError::HandedOver)?;
    let (listener, address) = match (handed_over, cli.port) {
        (Some(listener), _) => {
            let address = listener.local_addr().map_err(ProxyError::HandedOver)?;
            (listener, address)
        }
        (None, None) => return Err(ProxyError::NoPort),
        (None, Some(port)) => {
            let address = SocketAddr::new(cli.listen, port);
            let bound = TcpListener::bind(address);
            (bound.map_err(|why| ProxyError::Listen(address, why))?, address)
        }
    };
    listener.set_nonblocking(true).map_err(|why| ProxyError::Listen(address, why))?;
    Ok(listener)
}

fn warn_about(address: SocketAddr, password: bool) {
    if address.ip().is_loopback() {
        return;
    }
    let who = if password {
        "everyone who knows the password, or sees it pass by (SOCKS sends it in the clear),"
    } else {
        "everyone"
    };
    say::tell(format_args!(
        "knock-proxy: warning: this is not loopback: {who} who can reach {address} gets into your servers as you do, \
         and wherever else this machine can connect to"
    ));
}

/// The usual soft limit of 1,024 is too few for as many connections, and the hard limit is there to be used.
fn allow_many_descriptors() {
    let wanted = LIMITS.connections as u64 * DESCRIPTORS_EACH;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // Without it there are fewer connections at once, no more.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}
