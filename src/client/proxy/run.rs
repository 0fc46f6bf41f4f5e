//! What `knock-proxy` does from its command line until it serves.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::auth::{AuthError, Credentials};
use super::cli::Cli;
use super::lookup::Lookup;
use super::serve::{MOST_CONNECTIONS, Proxy, serve};
use super::upstream::Upstream;
use crate::client::knock::capabilities as privilege;
use crate::client::knock::error::{Failure, reason};
use crate::client::knock::knocker::default_profiles;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::say;

/// Descriptors of a connection at its busiest: the client, and the attempts that race for the server.
const DESCRIPTORS_EACH: u64 = 4;

/// Why the proxy does not serve.
#[derive(Debug)]
enum NotServing {
    Client(Failure),
    Auth(AuthError),
    NoPort,
    Listen(SocketAddr, io::Error),
    HandedOver(io::Error),
    Runtime(io::Error),
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(failure) => failure.fmt(f),
            Self::Auth(error) => error.fmt(f),
            Self::NoPort => f.write_str("which port? say knock-proxy PORT, as in knock-proxy 1080"),
            Self::HandedOver(why) => {
                write!(f, "what systemd handed over is no TCP socket: {}", reason(why))
            }
            Self::Listen(address, why) => write!(f, "cannot listen on {address}: {}", reason(why)),
            Self::Runtime(why) => write!(f, "cannot serve: {}", reason(why)),
        }
    }
}

/// Runs `knock-proxy` until it is told to end.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    if let Some(shell) = cli.completions {
        return say::completions(shell, &mut Cli::command());
    }
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::tell(format_args!("knock-proxy: {why}"));
            ExitCode::from(if matches!(why, NotServing::NoPort) { 2 } else { 1 })
        }
    }
}

fn start(cli: &Cli) -> Result<(), NotServing> {
    // One thread so far, and not a byte accepted: what needs the capability first, and then it is gone for good.
    let raw = RawSockets::open().map_err(|why| NotServing::Client(Failure::raw_socket(why)))?;
    privilege::drop_all(true).map_err(|why| NotServing::Client(Failure::StillPrivileged(why)))?;

    let profiles = cli.profiles.clone().map_or_else(default_profiles, Ok);
    let profiles = profiles.map_err(NotServing::Client)?;
    let auth = cli.auth.as_deref().map(Credentials::read).transpose().map_err(NotServing::Auth)?;
    let listener = listen(cli)?;
    allow_many_descriptors();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NotServing::Runtime)?;
    let upstream = Upstream::new(Lookup::new(profiles), raw);
    let proxy = Proxy { upstream, auth, verbose: cli.verbose };
    let served = runtime.block_on(async {
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        warn_about(address, proxy.auth.is_some());
        say::tell(format_args!("knock-proxy: ready on {address}"));
        serve(listener, proxy).await
    });
    // A thread may hang in the resolver; nobody waits for its answer any more.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served.map_err(NotServing::Runtime)
}

/// The socket that systemd hands over, or one of our own.
fn listen(cli: &Cli) -> Result<TcpListener, NotServing> {
    let handed_over = ListenFd::from_env().take_tcp_listener(0).map_err(NotServing::HandedOver)?;
    let (listener, address) = match (handed_over, cli.port) {
        (Some(listener), _) => {
            let address = listener.local_addr().map_err(NotServing::HandedOver)?;
            (listener, address)
        }
        (None, None) => return Err(NotServing::NoPort),
        (None, Some(port)) => {
            let address = SocketAddr::new(cli.listen, port);
            let bound = TcpListener::bind(address);
            (bound.map_err(|why| NotServing::Listen(address, why))?, address)
        }
    };
    listener.set_nonblocking(true).map_err(|why| NotServing::Listen(address, why))?;
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
    let wanted = MOST_CONNECTIONS as u64 * DESCRIPTORS_EACH;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // Without it there are fewer connections at once, no more.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}
