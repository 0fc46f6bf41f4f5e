//! The loop that runs with a privilege. All that reaches it is 512 bytes at a time; all that it can do is let one address
//! reach one port for some seconds, within limits that root set before, have the kernel log a SYN or not, and drop our copy
//! of the guard. It parses no text and knows no profile, key or log.

#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::{read, write};

use super::grants::Grants;
use super::{Firewall, Limits, Message, REQUEST_LEN, Refusal, Reply, Request};

/// Why the loop ended, other than because the daemon took its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The pipe ended and nobody took leave: the daemon is dead.
    DaemonGone,
    /// A pipe broke.
    Pipe(Errno),
    /// What came is no request.
    NotARequest,
    /// What came is a request that the daemon would not have made.
    Outside(Refusal),
}

/// Answers requests until the daemon takes its leave, or is gone.
pub(super) fn answer_requests(
    (requests, replies): (impl AsFd, impl AsFd),
    firewall: &mut Firewall,
    limits: &Limits,
) -> Result<(), End> {
    let mut grants = Grants::with_room(limits.max_open, limits.max_open_per_source);
    loop {
        let message = Message::decode(&next_request(&requests)?).ok_or(End::NotARequest)?;
        let reply = match message {
            Message::Open(request) => answer_open(&request, firewall, limits, &mut grants)?,
            Message::Close(request) => answer_close(&request, firewall, &mut grants),
            Message::End => return Ok(()),
            other => answer(answer_rules(&other, firewall), Reply::Done),
        };
        write(&replies, &reply.encode()).map_err(End::Pipe)?;
    }
}

fn answer_open(
    request: &Request,
    firewall: &mut Firewall,
    limits: &Limits,
    grants: &mut Grants,
) -> Result<Reply, End> {
    // The daemon has checked this. If it does not hold here, the daemon is no longer ours.
    limits.check(request).map_err(End::Outside)?;
    #[cfg(feature = "misbehave")]
    super::misbehave::misbehave(request);
    // This it cannot check: addresses come and go, and only the kernel knows.
    match (firewall.is_ours(request.destination), firewall.is_ours(request.address)) {
        (Ok(true), Ok(false)) => {}
        (Ok(false), _) => return Ok(Reply::NotOurs),
        (_, Ok(true)) => return Ok(Reply::Ours),
        (Err(errno), _) | (_, Err(errno)) => return Ok(Reply::Failed(errno as i32)),
    }
    let now = Instant::now();
    if let Err(full) = grants.room_for(request, now) {
        return Ok(full);
    }
    let opened = firewall.open(request);
    if opened.is_ok() {
        grants.record(request, now);
    }
    Ok(answer(opened, Reply::Opened))
}

fn answer_close(request: &Request, firewall: &mut Firewall, grants: &mut Grants) -> Reply {
    let closed = firewall.close(request);
    if closed.is_ok() {
        grants.forget(request);
    }
    answer(closed, Reply::Done)
}

/// What is logged, and what our table closes: nothing of this admits anybody.
fn answer_rules(message: &Message, firewall: &mut Firewall) -> Result<(), Errno> {
    match message {
        Message::Expect(numbers) => firewall.expect(numbers),
        Message::Forget(numbers) => firewall.forget(numbers),
        Message::KnockPorts(ports) => firewall.knock_on(ports),
        Message::Unguard => firewall.unguard(),
        Message::Open(_) | Message::Close(_) | Message::End => Err(Errno::EINVAL),
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
fn next_request(requests: impl AsFd) -> Result<[u8; REQUEST_LEN], End> {
    let mut bytes = [0; REQUEST_LEN];
    match read(requests, &mut bytes).map_err(End::Pipe)? {
        0 => Err(End::DaemonGone),
        REQUEST_LEN => Ok(bytes),
        _ => Err(End::NotARequest),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonGone => f.write_str("the daemon is gone; every door is shut"),
            Self::Pipe(errno) => write!(f, "the pipe to the daemon broke: {}", errno.desc()),
            Self::NotARequest => f.write_str(
                "ALARM: the daemon sent bytes that are no request: it may have been taken over",
            ),
            Self::Outside(refusal) => write!(
                f,
                "ALARM: the daemon asked for what the config does not allow, it may have been taken over: {refusal}"
            ),
        }
    }
}
