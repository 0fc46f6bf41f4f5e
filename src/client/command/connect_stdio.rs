//! `knock -W`: knock and connect; standard input and output become the connection.

use std::fs::File;
use std::future::ready;
use std::io;
use std::net::TcpStream;
use std::path::Path;

use nix::errno::Errno;
use tokio::runtime::{Builder, Runtime};

use super::cli::KnockCli;
use super::plan::{KnockPlan, plan};
use crate::client::connect::error::ConnectError;
use crate::client::connect::plain::{self, PlainError};
use crate::client::connect::race::knock_and_connect;
use crate::client::connect::send_order::Next;
use crate::client::connect::stdio_relay::{RelayError, relay, standard_ends};
use crate::client::knock::error::KnockError;
use crate::client::knock::knocker::Sent;
use crate::client::knock::profile_lock::{MAX_WAIT, ProfileLock};
use crate::client::knock::profile_match::nearest;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::knock::route::{find_routes, resolve};
use crate::client::say;
use crate::layout::Request;

/// Why it ended.
#[derive(Debug, thiserror::Error)]
enum ConnectStdioError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// To a host without a profile. With the profile that was probably meant.
    #[error("{0:?}: {1}")]
    Plain(String, PlainError, Option<String>),
    #[error(transparent)]
    Start(#[from] RelayError),
    #[error("{0:?}: {1}")]
    Relay(String, RelayError),
    #[error("cannot start ({})", say::reason(.0))]
    Runtime(#[from] io::Error),
}

impl ConnectStdioError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect(error) => error.hint(),
            Self::Plain(_, _, None) => Some(plain::HINT.to_owned()),
            Self::Plain(_, _, Some(meant)) => {
                Some(format!("{}; did you mean {meant:?}?", plain::HINT))
            }
            Self::Start(_) | Self::Relay(..) | Self::Runtime(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Connects to `port` of `host`, with a knock where there is a profile for it, until both sides are done. The exit code.
pub(super) fn connect(cli: &KnockCli, host: &str, port: u16, raw: Result<RawSockets, Errno>) -> u8 {
    match try_connect(cli, host, port, raw) {
        Ok(()) => 0,
        Err(error) => {
            say::error("knock", &error, error.hint());
            error.exit_code()
        }
    }
}

fn try_connect(
    cli: &KnockCli,
    host: &str,
    port: u16,
    raw: Result<RawSockets, Errno>,
) -> Result<(), ConnectStdioError> {
    let (stream, (input, output)) = match plan(cli, host, Some(Request(port))) {
        Err(KnockError::NoProfile { profiles, there_are, .. }) => {
            drop(raw);
            connect_plainly(cli, host, port, &profiles, &there_are)
        }
        planned => {
            let plan = planned.map_err(ConnectError::from)?;
            let raw = raw.map_err(KnockError::raw_socket).map_err(ConnectError::from)?;
            connect_with(cli, &plan, &raw)
        }
    }?;
    relay(&stream, input, output).map_err(|why| ConnectStdioError::Relay(host.to_owned(), why))
}

fn connect_with(
    cli: &KnockCli,
    plan: &KnockPlan,
    raw: &RawSockets,
) -> Result<(TcpStream, (File, File)), ConnectStdioError> {
    let ends = standard_ends().map_err(RelayError::StandardEnds)?;
    let KnockPlan { knocker, request, routes } = plan;
    let host = &knocker.profile.name;
    let send = |next: Next<Sent>| -> Result<Sent, ConnectError> {
        match next {
            Next::New(route) => {
                let sent = knocker.knock(raw, &route, *request)?;
                if cli.verbose {
                    plan.say_sent(&sent);
                }
                Ok(sent)
            }
            Next::Again(sent) => {
                sent.again(raw)?;
                if cli.verbose {
                    say::tell(format_args!(
                        "knock: {host:?}: sent the same SYN to {} again (counter {})",
                        sent.route.target.ip(),
                        sent.counter
                    ));
                }
                Ok(sent)
            }
        }
    };
    let runtime = runtime()?;
    let connected = runtime.block_on(async {
        // Held until the connection stands: every other attempt is closed by then, so none of ours can use up the next
        // client's grant.
        let _lock = ProfileLock::take(&knocker.dir, MAX_WAIT).await?;
        let layout = knocker.profile.config.layout;
        knock_and_connect(routes, request.0, layout, |next| ready(send(next))).await
    })?;
    if cli.verbose {
        say::tell(format_args!(
            "knock: {host:?}: connected to {} port {} (SYNs: {}, counters: {}, attempts: {})",
            connected.route.target.ip(),
            request.0,
            connected.packets,
            connected.knocks,
            connected.attempts
        ));
    }
    Ok((blocking(connected.stream)?, ends))
}

/// As `nc` does.
fn connect_plainly(
    cli: &KnockCli,
    host: &str,
    port: u16,
    profiles: &Path,
    there_are: &[String],
) -> Result<(TcpStream, (File, File)), ConnectStdioError> {
    if cli.verbose {
        say::tell(format_args!(
            "knock: no profile {host:?} in {profiles:?}: connecting without a knock"
        ));
    }
    let ends = standard_ends().map_err(RelayError::StandardEnds)?;
    let runtime = runtime()?;
    let connected = resolve(host, port).map_err(PlainError::Unresolved).and_then(|addresses| {
        let found = find_routes(&addresses, cli.family(), cli.source)?;
        runtime.block_on(plain::connect(found.routes))
    });
    let stream = connected.map_err(|why| {
        let meant = nearest(host, there_are).map(str::to_owned);
        ConnectStdioError::Plain(host.to_owned(), why, meant)
    })?;
    if let (true, Ok(address)) = (cli.verbose, stream.peer_addr()) {
        say::tell(format_args!("knock: {host:?}: connected to {address} without a knock"));
    }
    Ok((blocking(stream)?, ends))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn blocking(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
