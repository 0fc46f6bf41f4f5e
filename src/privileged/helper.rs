//! The loop that runs with `CAP_NET_ADMIN`. Its input is messages of 512 bytes. All that it can do is grant one address
//! access to one port for some seconds, within limits that root set before, choose which SYNs the kernel logs, and delete
//! our copy of the guard. It parses no text and knows no profile, key or log.

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

/// Why the loop ended without [`Message::End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LoopEnd {
    /// End of file on the pipe: the daemon is dead.
    #[error("the daemon is gone: all grants revoked")]
    DaemonGone,
    /// A pipe broke.
    #[error("the pipe to the daemon broke: {}", .0.desc())]
    Pipe(#[from] Errno),
    /// No message has these bytes.
    #[error("ALARM: the daemon sent an invalid message: it may have been compromised")]
    InvalidMessage,
    /// The daemon checks the limits itself, and would not have sent this.
    #[error(
        "ALARM: the daemon asked for what the config does not allow, it may have been compromised: {0}"
    )]
    Outside(#[from] OutsideLimits),
}

/// Answers messages until the daemon sends [`Message::End`] or exits.
pub(super) fn answer_requests(
    (requests, replies): (impl AsFd, impl AsFd),
    firewall: &mut Firewall,
    limits: &Limits,
) -> Result<(), LoopEnd> {
    let mut grants = Grants::with_room(limits.max_open, limits.max_open_per_source);
    loop {
        let message = Message::decode(&next_message(&requests)?).ok_or(LoopEnd::InvalidMessage)?;
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
    // The daemon has checked this. A grant that fails here means that the daemon has been compromised.
    limits.check(grant)?;
    #[cfg(feature = "misbehave")]
    misbehave(grant);
    // The daemon cannot check this: addresses come and go, and only the kernel knows them.
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

/// Changes what the table logs, or deletes the guard. None of these grants access.
fn answer_rules(message: &Message, firewall: &mut Firewall) -> Result<(), Errno> {
    match (message, firewall.table()) {
        (Message::Expect(numbers), Some((table, netlink))) => table.expect(netlink, numbers),
        (Message::Forget(numbers), Some((table, netlink))) => table.forget(netlink, numbers),
        (Message::KnockPorts(ports), Some((table, netlink))) => table.log_ports(netlink, ports),
        (Message::Unguard, Some((table, netlink))) => table.unguard(netlink),
        // There is none to delete.
        (Message::Unguard, None) => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn answer(done: Result<(), Errno>, success: Reply) -> Reply {
    match done {
        Ok(()) => success,
        Err(Errno::ENFILE) => Reply::Full,
        Err(errno) => Reply::Failed(errno as i32),
    }
}

/// The next message. The daemon writes each in one piece, so a short read is an error.
fn next_message(requests: impl AsFd) -> Result<[u8; REQUEST_LEN], LoopEnd> {
    let mut bytes = [0; REQUEST_LEN];
    match read(requests, &mut bytes)? {
        0 => Err(LoopEnd::DaemonGone),
        REQUEST_LEN => Ok(bytes),
        _ => Err(LoopEnd::InvalidMessage),
    }
}
