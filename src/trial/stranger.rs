//! The stranger: a thread of this process in a network namespace of its own, which knows this host's address and nothing
//! else. When the process ends, however it ends, the kernel takes the namespace away, and with it the cable.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::linger;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

use super::link::{self, Cable, CableAddresses, Routes, STRANGERS_END};
use super::signals::{Signals, TICK};
use crate::client::knock::packet::KnockPacket;
use crate::client::knock::raw_socket::RawSockets;
use crate::daemon::trial_plan::Interrupted;

/// How many networks are tried until one is free.
const MAX_PICKS: u16 = 16;

/// The result of a connection attempt.
#[derive(Debug)]
pub(super) enum Reach {
    /// The connection stands.
    In(TcpStream),
    /// RST, or an ICMP error that refuses.
    Refused,
    /// Nothing came back.
    NoAnswer,
    /// The attempt failed for another reason.
    Failed(String),
}

type Errand = Box<dyn FnOnce() + Send>;

/// A thread in a namespace, its cable, and the addresses at its ends.
#[derive(Debug)]
pub(super) struct Stranger {
    errands: Option<Sender<Errand>>,
    thread: Option<JoinHandle<()>>,
    /// Dropped before the thread ends.
    cable: Option<Cable>,
    /// The families that there are, one pair of ends each.
    pub(super) ends: Vec<CableAddresses>,
}

impl Stranger {
    /// Makes the namespace and the cable. `pick` is any number: where to begin to look for a free network. Of a family that
    /// cannot be had, `ends` has none.
    pub(super) fn arrive(pick: u16) -> Result<Self, String> {
        let (errands, waiting) = channel::<Errand>();
        let (here, arrived) = channel();
        let thread = thread::spawn(move || live(&here, &waiting));
        let mut stranger =
            Self { errands: Some(errands), thread: Some(thread), cable: None, ends: Vec::new() };
        let namespace = arrived
            .recv()
            .map_err(|_| "its thread ended".to_owned())?
            .map_err(|errno| cannot("make a network namespace", errno))?;
        let name = format!("kktry{}", std::process::id());
        let cable = Cable::new(&name, namespace.as_fd())
            .map_err(|errno| cannot("make a veth pair", errno))?;
        cable.up().map_err(|errno| cannot("bring a veth pair up", errno))?;
        let cable = stranger.cable.insert(cable);
        for family in [CableAddresses::v4, CableAddresses::v6] {
            let ends = free(family, pick).map_err(|errno| cannot("look routes up", errno))?;
            // A host may be without IPv6.
            if let Some(ends) = ends.filter(|ends| cable.add(*ends).is_ok()) {
                stranger.ends.push(ends);
            }
        }
        stranger.plug_in()?;
        Ok(stranger)
    }

    fn plug_in(&mut self) -> Result<(), String> {
        let ends = self.ends.clone();
        let answer = self.send_on(move || {
            link::up(if_nametoindex("lo")?)?;
            let index = if_nametoindex(STRANGERS_END)?;
            link::up(index)?;
            ends.into_iter().try_for_each(|ends| link::plug_in(index, ends))
        });
        answer
            .and_then(|answer| answer.recv().ok())
            .ok_or_else(|| "its thread ended".to_owned())?
            .map_err(|errno| cannot("give the stranger an address", errno))
    }

    /// Connects to this host.
    pub(super) fn connect(
        &self,
        to: SocketAddr,
        within: Duration,
        signals: &Signals,
    ) -> Result<Reach, Interrupted> {
        let reach = self.send_on(move || reach(TcpStream::connect_timeout(&to, within)));
        Ok(wait(reach, signals)?.unwrap_or_else(|| Reach::Failed("its thread ended".into())))
    }

    /// Sends a knock.
    pub(super) fn knock(
        &self,
        packet: KnockPacket,
        signals: &Signals,
    ) -> Result<Result<(), String>, Interrupted> {
        let sent = self.send_on(move || RawSockets::open()?.send(&packet, 0));
        let sent = wait(sent, signals)?.unwrap_or(Err(Errno::ESRCH));
        Ok(sent.map_err(|errno| cannot("send a knock", errno)))
    }

    /// Has the thread do something; the answer comes through the channel. None: the thread has ended.
    fn send_on<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Receiver<T>> {
        let (answer, answered) = channel();
        // After an interruption, the receiver is closed.
        let errand = Box::new(move || drop(answer.send(work())));
        self.errands.as_ref()?.send(errand).ok()?;
        Some(answered)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.cable = None;
        self.errands = None;
        // Privileges are dropped by threads, so none may be left behind.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's main function: enters a namespace of its own, then runs what it is sent until the channel is closed.
fn live(here: &Sender<Result<File, Errno>>, errands: &Receiver<Errand>) {
    let namespace = unshare(CloneFlags::CLONE_NEWNET).and_then(|()| {
        File::open("/proc/thread-self/ns/net")
            .map_err(|why| Errno::try_from(why).unwrap_or(Errno::EIO))
    });
    let _ = here.send(namespace);
    for errand in errands {
        errand();
    }
}

/// A network that no route of this host leads to.
fn free(family: fn(u16) -> CableAddresses, pick: u16) -> Result<Option<CableAddresses>, Errno> {
    let mut routes = Routes::open()?;
    for offset in 0..MAX_PICKS {
        let ends = family(pick.wrapping_add(offset));
        match routes.have(ends.stranger) {
            Ok(true) => {}
            Ok(false) => return Ok(Some(ends)),
            // A kernel without this family.
            Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

fn reach(connected: std::io::Result<TcpStream>) -> Reach {
    match connected {
        Ok(stream) => {
            // Dropped, it is reset: no half-closed connection stays behind in conntrack.
            let at_once = linger { l_onoff: 1, l_linger: 0 };
            match setsockopt(&stream, sockopt::Linger, &at_once) {
                Ok(()) => Reach::In(stream),
                Err(errno) => Reach::Failed(errno.desc().to_owned()),
            }
        }
        Err(why) => match why.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Reach::NoAnswer,
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Reach::Refused,
            _ => Reach::Failed(why.to_string()),
        },
    }
}

/// Waits for an answer, unless a signal ends the trial.
fn wait<T>(answer: Option<Receiver<T>>, signals: &Signals) -> Result<Option<T>, Interrupted> {
    let Some(answer) = answer else { return Ok(None) };
    loop {
        signals.check()?;
        match answer.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => {}
            answer => return Ok(answer.ok()),
        }
    }
}

fn cannot(what: &str, errno: Errno) -> String {
    format!("cannot {what}: {}", errno.desc())
}
