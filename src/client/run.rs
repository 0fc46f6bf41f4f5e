//! What `knock` does from its command line to its exit code, and what it says meanwhile.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::CommandFactory;
use nix::errno::Errno;

use super::cli::{Cli, Target};
use super::connect::race::knock_and_connect;
use super::connect::send_order::Next;
use super::connect::{plain, stdio_relay as relay};
use super::knock::answer::{self, Awaited, Ears};
use super::knock::capabilities as privilege;
use super::knock::dry_run::{self as show, DryRun};
use super::knock::error::Failure;
use super::knock::knocker::{Knocker, Sent, default_profiles};
use super::knock::profile_lock::{self as turn, Turn};
use super::knock::profile_match::nearest;
use super::knock::raw_socket::RawSockets;
use super::knock::route::{Family, Route, Ways, first_of_each};
use super::say;
use crate::layout::Request;

/// A command could not be started: as shells and env(1) have it.
const NOT_STARTED: u8 = 127;

/// The command line is no good: as clap has it.
const WRONG_USAGE: u8 = 2;

/// A profile, and what to ask its host for.
struct Asked {
    knocker: Knocker,
    request: Request,
}

/// One host to knock at: decided before a counter is touched, so that nothing is left to fail but the knock.
struct Plan {
    knocker: Knocker,
    request: Request,
    /// At least one.
    routes: Vec<Route>,
}

/// Runs `knock`. 0: all was done; 1: something was not; 2: the command line lacks something.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    if let Some(shell) = cli.completions {
        return say::completions(shell, &mut Cli::command());
    }
    if let Err(wrong) = cli.check() {
        let _ = wrong.print();
        return ExitCode::from(WRONG_USAGE);
    }
    let done = if cli.list {
        profiles(cli).and_then(|profiles| show::list(&profiles)).map(|text| {
            say::print(&text);
            0
        })
    } else if let Some((host, port)) = &cli.connect {
        connect(cli, host, *port)
    } else if cli.dry_run {
        dry_run(cli)
    } else {
        knock_all(cli)
    };
    done.unwrap_or_else(|failure| report(&failure)).into()
}

fn knock_all(cli: &Cli) -> Result<u8, Failure> {
    let mut code = 0;
    let asked = all_asked(cli, &mut code);
    // A command may be one that gets privileges of its own, like sudo; it should be able to.
    let ears = if cli.wait.is_some() { 0 } else { asked.len() };
    let raw = open_raw(ears, cli.family(), cli.command.is_empty())?;
    let plans = all_plans(cli, asked, &mut code);
    if !plans.is_empty() {
        let (raw, mut ears) = raw.map_err(Failure::raw_socket)?;
        let mut awaited = Vec::new();
        for plan in &plans {
            code = code.max(knock_each_family(cli, plan, &raw, &mut ears, &mut awaited));
        }
        match cli.wait_after() {
            Some(time) => std::thread::sleep(time),
            None => say_answers(cli, awaited),
        }
    }
    match cli.command.split_first() {
        Some((program, arguments)) if code == 0 => Ok(become_command(program, arguments)),
        _ => Ok(code),
    }
}

/// One knock for each family of one host. Fails where not one has left.
fn knock_each_family<'a>(
    cli: &Cli,
    plan: &'a Plan,
    raw: &RawSockets,
    ears: &mut Ears,
    awaited: &mut Vec<(&'a Plan, Route, Awaited)>,
) -> u8 {
    let (mut left, mut code) = (false, 0);
    for route in first_of_each(&plan.routes) {
        // Before the knock: its answer may be there at once.
        let ear = ears.listen(&route).map_err(Failure::RawSocket);
        let sent = ear.and_then(|ear| {
            let sent = plan.knocker.knock(raw, &route, plan.request)?;
            Ok((ear, sent, Instant::now()))
        });
        match sent {
            Ok((ear, sent, when)) => {
                left = true;
                if !cli.quiet {
                    say_sent(plan, &route, &sent);
                }
                let one = ear.map(|ear| (plan, route, Awaited::new(ear, sent.packet, when)));
                awaited.extend(one);
            }
            Err(failure) => code = code.max(report(&failure)),
        }
    }
    if left { 0 } else { code }
}

/// Waits for the answers to all knocks and says what came back.
fn say_answers(cli: &Cli, awaited: Vec<(&Plan, Route, Awaited)>) {
    let (about, mut awaited): (Vec<_>, Vec<_>) =
        awaited.into_iter().map(|(plan, route, one)| ((plan, route), one)).unzip();
    answer::wait_for_all(&mut awaited);
    if cli.quiet {
        return;
    }
    for ((plan, route), one) in about.iter().zip(&awaited) {
        let (name, address) = (&plan.knocker.profile.name, route.target.ip());
        say::tell(format_args!("knock: {name:?}: {address}: {one}"));
    }
}

/// Does not return where the command can be started: then its exit code is ours.
fn become_command(program: &OsString, arguments: &[OsString]) -> u8 {
    let why = Command::new(program).args(arguments).exec();
    say::tell(format_args!(
        "knock: {program:?}: cannot be started: {}",
        super::knock::error::reason(&why)
    ));
    NOT_STARTED
}

fn connect(cli: &Cli, host: &str, port: u16) -> Result<u8, Failure> {
    let asked = match asked(cli, host, Some(Request(port))) {
        Err(Failure::NoProfile { profiles, there_are, .. }) => {
            if cli.verbose {
                say::tell(format_args!(
                    "knock: no profile {host:?} in {profiles:?}: connecting without a knock"
                ));
            }
            return connect_plainly(cli, host, port, &there_are);
        }
        asked => asked?,
    };
    let raw = open_raw(0, cli.family(), true)?;
    let plan = plan(cli, asked)?;
    let (raw, _) = raw.map_err(Failure::raw_socket)?;
    let (input, output) = relay::standard_ends().map_err(Failure::StandardEnds)?;

    let turn = Turn::take(&plan.knocker.dir, turn::LONGEST_WAIT).map_err(Failure::NoTurn)?;
    let connected = knock_and_connect(&plan.routes, port, |next| {
        let again = matches!(next, Next::Again(_));
        let sent = plan.knocker.send_next(&raw, next, plan.request)?;
        match again {
            _ if !cli.verbose => {}
            true => say::tell(format_args!(
                "knock: {host:?}: sent the same SYN to {} again (counter {})",
                sent.route.target.ip(),
                sent.counter
            )),
            false => say_sent(&plan, &sent.route, &sent),
        }
        Ok(sent)
    });
    // Every other attempt is closed by now, so the next one's grant is safe from us.
    drop(turn);
    let connected = connected?;
    if cli.verbose {
        say::tell(format_args!(
            "knock: {host:?}: connected to {} port {port} (SYNs: {}, counters: {}, attempts: {})",
            connected.route.target.ip(),
            connected.packets,
            connected.knocks,
            connected.attempts
        ));
    }
    relay(host, &connected.stream, input, output)
}

/// As `nc` does: no knock, so no privilege.
fn connect_plainly(cli: &Cli, host: &str, port: u16, there_are: &[String]) -> Result<u8, Failure> {
    privilege::drop_all(true).map_err(Failure::StillPrivileged)?;
    let (input, output) = relay::standard_ends().map_err(Failure::StandardEnds)?;
    let connected = plain::connect(host, port, cli.family(), cli.source);
    let stream = connected.map_err(|why| Failure::Plain {
        host: host.to_owned(),
        why,
        meant: nearest(host, there_are).map(str::to_owned),
    })?;
    if let (true, Ok(address)) = (cli.verbose, stream.peer_addr()) {
        say::tell(format_args!("knock: {host:?}: connected to {address} without a knock"));
    }
    relay(host, &stream, input, output)
}

fn relay(host: &str, stream: &TcpStream, input: File, output: File) -> Result<u8, Failure> {
    relay::relay(stream, input, output).map_err(|lost| match lost {
        relay::Lost::StandardEnds(why) => Failure::StandardEnds(why),
        relay::Lost::Connection(why) => Failure::ConnectionLost(host.to_owned(), why),
    })?;
    Ok(0)
}

fn dry_run(cli: &Cli) -> Result<u8, Failure> {
    let mut code = 0;
    let asked = all_asked(cli, &mut code);
    privilege::drop_all(true).map_err(Failure::StillPrivileged)?;
    let plans = all_plans(cli, asked, &mut code);
    for plan in &plans {
        let mut next = plan.knocker.next_counter()?;
        for route in first_of_each(&plan.routes) {
            let (counter, packet) = show::next_packet(&plan.knocker, &route, plan.request, next)?;
            next = counter.saturating_add(1);
            let host = &plan.knocker.profile.name;
            let shown = DryRun { host, request: plan.request, counter, packet };
            say::print(&shown.to_string());
        }
    }
    Ok(code)
}

/// What is asked of the hosts of the command line; those that nothing can be asked of leave their exit code.
fn all_asked(cli: &Cli, code: &mut u8) -> Vec<Asked> {
    let asked = |target: &Target| asked(cli, &target.host, target.port.map(Request).or(cli.port));
    good(cli.hosts.iter().map(asked), code)
}

/// The plans for those; a host without one leaves its exit code.
fn all_plans(cli: &Cli, asked: Vec<Asked>, code: &mut u8) -> Vec<Plan> {
    good(asked.into_iter().map(|asked| plan(cli, asked)), code)
}

/// What succeeded. What failed is told of, and `code` is its exit code.
fn good<T>(results: impl Iterator<Item = Result<T, Failure>>, code: &mut u8) -> Vec<T> {
    let told = |result: Result<T, Failure>| {
        result.map_err(|failure| *code = (*code).max(report(&failure))).ok()
    };
    results.filter_map(told).collect()
}

/// Reads files of ours alone.
fn asked(cli: &Cli, host: &str, request: Option<Request>) -> Result<Asked, Failure> {
    let knocker = Knocker::find(&profiles(cli)?, host, request.map(|request| request.0))?;
    if knocker.readable_by_others && !cli.quiet {
        let dir = &knocker.dir;
        say::tell(format_args!(
            "knock: others can read the keys of {host:?}; put it right: chmod -R go-rwx {dir:?}"
        ));
    }
    let request = request
        .or(knocker.profile.config.port.map(Request))
        .ok_or_else(|| Failure::NoPort(host.to_owned(), knocker.dir.join("config")))?;
    Ok(Asked { knocker, request })
}

/// Asks the resolver.
fn plan(cli: &Cli, Asked { knocker, request }: Asked) -> Result<Plan, Failure> {
    let Ways { routes, passed_over } = knocker.ways(cli.family(), cli.source)?;
    if cli.verbose {
        let host = &knocker.profile.name;
        for (address, why) in &passed_over {
            let why = super::knock::error::reason(why);
            say::tell(format_args!("knock: {host:?}: no way to {address} ({why}): passed over"));
        }
        for route in &routes {
            say::tell(format_args!(
                "knock: {host:?}: {} is reached from {}",
                route.target.ip(),
                route.source
            ));
        }
    }
    Ok(Plan { knocker, request, routes })
}

fn profiles(cli: &Cli) -> Result<PathBuf, Failure> {
    cli.profiles.clone().map_or_else(default_profiles, Ok)
}

/// Opens what needs the capability, then gives it up with everything else, before a counter is touched and before the
/// resolver is asked: its answers come from the network. That the capability is missing is told when there is a knock.
fn open_raw(
    hosts_to_hear: usize,
    family: Family,
    no_new_privs: bool,
) -> Result<Result<(RawSockets, Ears), Errno>, Failure> {
    let raw = RawSockets::open().and_then(|raw| Ok((raw, Ears::open(hosts_to_hear, family)?)));
    privilege::drop_all(no_new_privs).map_err(Failure::StillPrivileged)?;
    Ok(raw)
}

fn say_sent(plan: &Plan, route: &Route, sent: &Sent) {
    // Nothing answers a knock, so nothing is claimed about the port.
    say::tell(format_args!(
        "knock: {:?}: sent one SYN to {} port {}, asking for port {} for {} (counter {})",
        plan.knocker.profile.name,
        route.target.ip(),
        sent.packet.knock_port,
        plan.request.0,
        route.source,
        sent.counter,
    ));
}

fn report(failure: &Failure) -> u8 {
    say::tell(format_args!("knock: {failure}"));
    failure.exit_code()
}
