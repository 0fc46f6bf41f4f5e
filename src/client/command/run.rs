//! What `knock` does from its command line to its exit code, and what it says meanwhile.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use clap::CommandFactory;
use nix::errno::Errno;

use super::cli::KnockCli;
use super::connect_stdio;
use super::import;
use super::plan::{KnockPlan, plan, profiles};
use crate::client::knock::answer_socket::{self, AnswerSockets, AwaitedAnswer};
use crate::client::knock::capabilities;
use crate::client::knock::dry_run::{DryRun, NextKnocks};
use crate::client::knock::error::KnockError;
use crate::client::knock::list;
use crate::client::knock::raw_socket::RawSockets;
use crate::client::knock::route::{Route, first_of_each_family};
use crate::client::knock::source_port::SourcePort;
use crate::client::say::{self, reason};
use crate::layout::Request;
use crate::profile::Profile;

/// A command could not be started: as shells and env(1) have it.
const NOT_STARTED: u8 = 127;

/// Wrong command line: clap's exit status.
const WRONG_USAGE: u8 = 2;

/// Runs `knock`. 0: all was done; 1: something was not; 2: the command line lacks something.
#[must_use]
pub fn run(cli: &KnockCli) -> ExitCode {
    if let Some(shell) = cli.completions {
        return say::completions(shell, &mut KnockCli::command());
    }
    if let Err(wrong) = cli.check() {
        let _ = wrong.print();
        return ExitCode::from(WRONG_USAGE);
    }
    // The raw sockets first, which need the capability; then it is dropped for good, before a file is read or the
    // resolver is asked, whose answers come from the network. A missing capability is reported only when there is a
    // knock to send.
    let raw = open_raw(cli);
    // A command may be one that gets privileges of its own, like sudo; it should be able to.
    let dropped = capabilities::drop_all(cli.command.is_empty()).map_err(KnockError::from);
    let done = dropped.and_then(|()| {
        if cli.list {
            list::list(&profiles(cli)?).map(|text| say::print(&text)).map(|()| 0)
        } else if let Some(host) = &cli.import {
            Ok(import::import(&profiles(cli)?, host, cli.replace, cli.quiet))
        } else if let Some((host, port)) = &cli.connect {
            Ok(connect_stdio::connect(cli, host, *port, raw.map(|(raw, _)| raw)))
        } else if cli.dry_run {
            dry_run(cli)
        } else {
            knock_all(cli, raw)
        }
    });
    done.unwrap_or_else(|error| report(&error)).into()
}

/// What is still going on about the knocks that have left.
#[derive(Default)]
struct UnderWay<'a> {
    awaited: Vec<(&'a KnockPlan, Route, AwaitedAnswer)>,
    /// Kept until all is done.
    source_ports: Vec<Arc<SourcePort>>,
}

fn open_raw(cli: &KnockCli) -> Result<(RawSockets, AnswerSockets), Errno> {
    let answers_waited_for = if cli.wait.is_some() { 0 } else { cli.hosts.len() };
    Ok((RawSockets::open()?, AnswerSockets::open(answers_waited_for, cli.family())?))
}

fn knock_all(
    cli: &KnockCli,
    raw: Result<(RawSockets, AnswerSockets), Errno>,
) -> Result<u8, KnockError> {
    let mut code = 0;
    let plans = plans(cli, &mut code);
    if !plans.is_empty() {
        let (raw, mut answers) = raw.map_err(KnockError::raw_socket)?;
        let mut under_way = UnderWay::default();
        for plan in &plans {
            code = code.max(knock_each_family(cli, plan, &raw, &mut answers, &mut under_way));
        }
        match cli.wait_after() {
            Some(time) => std::thread::sleep(time),
            None => say_answers(cli, under_way.awaited),
        }
    }
    match cli.command.split_first() {
        Some((program, arguments)) if code == 0 => Ok(become_command(program, arguments)),
        _ => Ok(code),
    }
}

/// One knock for each family of one host. Fails where not one has left.
fn knock_each_family<'a>(
    cli: &KnockCli,
    plan: &'a KnockPlan,
    raw: &RawSockets,
    answers: &mut AnswerSockets,
    under_way: &mut UnderWay<'a>,
) -> u8 {
    let (mut left, mut code) = (false, 0);
    for route in first_of_each_family(&plan.routes) {
        // Before the knock: its answer may be there at once.
        let socket = answers.listen(&route).map_err(KnockError::RawSocket);
        let sent = socket.and_then(|socket| {
            let sent = plan.knocker.knock(raw, &route, plan.request)?;
            Ok((socket, sent, Instant::now()))
        });
        match sent {
            Ok((socket, sent, when)) => {
                left = true;
                if !cli.quiet {
                    plan.say_sent(&sent);
                }
                under_way
                    .awaited
                    .extend(socket.map(|socket| {
                        (plan, route, AwaitedAnswer::new(socket, sent.packet, when))
                    }));
                under_way.source_ports.extend(sent.source_port);
            }
            Err(error) => code = code.max(report(&error)),
        }
    }
    if left { 0 } else { code }
}

/// Waits for the answers to all knocks and says what came back.
fn say_answers(cli: &KnockCli, awaited: Vec<(&KnockPlan, Route, AwaitedAnswer)>) {
    let (about, mut awaited): (Vec<_>, Vec<_>) =
        awaited.into_iter().map(|(plan, route, one)| ((plan, route), one)).unzip();
    answer_socket::wait_for_all(&mut awaited);
    if cli.quiet {
        return;
    }
    for ((plan, route), one) in about.iter().zip(&awaited) {
        let (name, address) = (&plan.knocker.profile.name, route.target.ip());
        say::tell(format_args!("knock: {name:?}: {address}: {one}"));
    }
}

/// Returns only if the command cannot be started; otherwise its exit code is ours.
fn become_command(program: &OsString, arguments: &[OsString]) -> u8 {
    let why = Command::new(program).args(arguments).exec();
    say::tell(format_args!("knock: {program:?}: cannot be started ({})", reason(&why)));
    NOT_STARTED
}

fn dry_run(cli: &KnockCli) -> Result<u8, KnockError> {
    let mut code = 0;
    for plan in &plans(cli, &mut code) {
        let mut next = NextKnocks::of(&plan.knocker)?;
        for route in first_of_each_family(&plan.routes) {
            let (counter, packet) = next.along(&route, plan.request)?;
            let Profile { name: host, config, .. } = &plan.knocker.profile;
            let (request, layout) = (plan.request, config.layout);
            say::print(&DryRun { host, layout, request, counter, packet }.to_string());
        }
    }
    Ok(code)
}

/// The plans for the hosts of the command line. For one without a plan the reason is reported, and its exit code set.
fn plans(cli: &KnockCli, code: &mut u8) -> Vec<KnockPlan> {
    let planned = cli.hosts.iter().filter_map(|target| {
        plan(cli, &target.host, target.port.map(Request).or(cli.port))
            .map_err(|error| *code = (*code).max(report(&error)))
            .ok()
    });
    planned.collect()
}

fn report(error: &KnockError) -> u8 {
    say::error("knock", error, error.hint());
    error.exit_code()
}
