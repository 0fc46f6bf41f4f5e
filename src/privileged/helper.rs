//! The loop that runs with a privilege. All that reaches it is 512 bytes at a time; all that it can do is let one address
//! reach one port for some seconds, within limits that root set before, have the kernel log a SYN or not, and drop our copy
//! of the guard. It parses no text and knows no profile, key or log.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::{read, write};
use thiserror::Error;

use super::firewall::Firewall;
use super::grants::Grants;
use super::limits::{Limits, OutsideLimits};
use super::message::{Message, REQUEST_LEN, Reply};
#[cfg(feature = "misbehave")]
use super::misbehave::misbehave;
use crate::grant::Grant;

/// Why the loop ended, other than because the daemon said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LoopEnd {
    /// The pipe ended without [`Message::End`]: the daemon is dead.
    #[error("the daemon is gone; every door is shut")]
    DaemonGone,
    /// A pipe broke.
    #[error("the pipe to the daemon broke: {}", .0.desc())]
    Pipe(#[from] Errno),
    /// What came is no request.
    #[error("ALARM: the daemon sent bytes that are no request: it may have been taken over")]
    NotARequest,
    /// What came is a request that the daemon would not have made.
    #[error(
        "ALARM: the daemon asked for what the config does not allow, it may have been taken over: {0}"
    )]
    Outside(#[from] OutsideLimits),
}

/// Answers requests until the daemon takes its leave, or is gone.
pub(super) fn answer_requests(
    (requests, replies): (impl AsFd, impl AsFd),
    firewall: &mut Firewall,
    limits: &Limits,
) -> Result<(), LoopEnd> {
    let mut grants = Grants::with_room(limits.max_open, limits.max_open_per_source);
    loop {
        let message = Message::decode(&next_request(&requests)?).ok_or(LoopEnd::NotARequest)?;
        let reply = match message {
            Message::Open(grant) => answer_open(&grant, firewall, limits, &mut grants)?,
            Message::Close(grant) => answer_close(&grant, firewall, &mut grants),
            Message::End => return Ok(()),
            other => answer(answer_rules(&other, firewall), Reply::Done),
        };
        write(&replies, &reply.encode())?;
    }
}

fn answer_open(
    grant: &Grant,
    firewall: &mut Firewall,
    limits: &Limits,
    grants: &mut Grants,
) -> Result<Reply, LoopEnd> {
    // The daemon has checked this. If it does not hold here, the daemon is no longer ours.
    limits.check(grant)?;
    #[cfg(feature = "misbehave")]
    misbehave(grant);
    // This it cannot check: addresses come and go, and only the kernel knows.
    match (firewall.is_ours(grant.destination), firewall.is_ours(grant.address)) {
        (Ok(true), Ok(false)) => {}
        (Ok(false), _) => return Ok(Reply::NotOurs),
        (_, Ok(true)) => return Ok(Reply::Ours),
        (Err(errno), _) | (_, Err(errno)) => return Ok(Reply::Failed(errno as i32)),
    }
    let now = Instant::now();
    if let Err(full) = grants.room_for(grant, now) {
        return Ok(full);
    }
    let opened = firewall.open(grant);
    if opened.is_ok() {
        grants.record(grant, now);
    }
    Ok(answer(opened, Reply::Opened))
}

fn answer_close(grant: &Grant, firewall: &mut Firewall, grants: &mut Grants) -> Reply {
    let closed = firewall.close(grant);
    if closed.is_ok() {
        grants.forget(grant);
    }
    answer(closed, Reply::Done)
}

/// What is logged, and what our table closes: nothing of this admits anybody.
fn answer_rules(message: &Message, firewall: &mut Firewall) -> Result<(), Errno> {
    match (message, firewall.table()) {
        (Message::Expect(numbers), Some((table, netlink))) => table.expect(netlink, numbers),
        (Message::Forget(numbers), Some((table, netlink))) => table.forget(netlink, numbers),
        (Message::KnockPorts(ports), Some((table, netlink))) => table.knock_on(netlink, ports),
        (Message::Unguard, Some((table, netlink))) => table.unguard(netlink),
        // There was none to drop.
        (Message::Unguard, None) => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn answer(done: Result<(), Errno>, well: Reply) -> Reply {
    match done {
        Ok(()) => well,
        Err(Errno::ENFILE) => Reply::Full,
        Err(errno) => Reply::Failed(errno as i32),
    }
}

/// The next request. The daemon writes a request in one piece, so a part of one is none.
fn next_request(requests: impl AsFd) -> Result<[u8; REQUEST_LEN], LoopEnd> {
    let mut bytes = [0; REQUEST_LEN];
    match read(requests, &mut bytes)? {
        0 => Err(LoopEnd::DaemonGone),
        REQUEST_LEN => Ok(bytes),
        _ => Err(LoopEnd::NotARequest),
    }
}
