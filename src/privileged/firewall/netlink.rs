//! Commands to the kernel's netfilter over netlink. Owns the socket, the sequence numbers and the answers; knows no rule.
//!
//! The kernel handles a request within the `send` that carries it, so every answer is in the socket when `send` returns.
//! Answers are therefore read without waiting: nothing here can block, and no answer is left unread.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, socket,
};

/// `NFNL_SUBSYS_NFTABLES`: the subsystem that a batch is for.
const NFTABLES: u16 = 10;

/// More than the largest single answer: an error repeats the request that it is about, and none of ours has 6 KiB. A dump
/// comes in pieces of at most 32 KiB.
const BUFFER: usize = 32 * 1024;

/// Which command of a batch the kernel refused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// The first message of the batch that was refused; `None`: the batch as such.
    pub at: Option<usize>,
    /// Why.
    pub errno: Errno,
}

impl From<Errno> for BatchError {
    fn from(errno: Errno) -> Self {
        Self { at: None, errno }
    }
}

/// What to do, as the subsystem that does it numbers it.
pub(super) type Action = (NetfilterSubsystem, u8);

/// One thing for the kernel to do.
#[derive(Debug)]
pub(super) struct Command {
    family: NetfilterProtoFamily,
    message: NetfilterMessageInner,
    flags: u16,
}

impl Command {
    /// An action of a subsystem, with netlink's flags for it, which the kernel acknowledges.
    pub(super) fn new(
        family: NetfilterProtoFamily,
        (subsys, message_type): Action,
        flags: u16,
        attributes: Vec<DefaultNla>,
    ) -> Self {
        let message = NetfilterMessageInner::Other { subsys, message_type, attributes };
        Self { family, message, flags: flags | NLM_F_ACK }
    }

    /// The bounds of a batch.
    fn control(message: ControlMessage) -> Self {
        Self { family: NetfilterProtoFamily::Unspec, message: message.into(), flags: 0 }
    }
}

/// A `NETLINK_NETFILTER` socket, connected to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread, where it stays.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Connected to the kernel: it takes no message from any process.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Uses `socket`, a duplicate of its own, from now on. Gives the old one back.
    pub(super) fn replace_socket(&mut self, socket: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.socket, socket)
    }

    /// Has the kernel do all of `commands` at once or none of them.
    pub(super) fn transact(&mut self, commands: &[Command]) -> Result<(), BatchError> {
        let mut bytes = Vec::with_capacity(BUFFER);
        self.push(&mut bytes, NFTABLES, &Command::control(ControlMessage::BatchBegin));
        let first = self.sequence.wrapping_add(1);
        for command in commands {
            self.push(&mut bytes, 0, command);
        }
        self.push(&mut bytes, NFTABLES, &Command::control(ControlMessage::BatchEnd));
        self.exchange(&bytes, first, commands.len())
    }

    /// Has the kernel do these things one after the other. No signal comes between them, not even SIGKILL. The kernel goes
    /// on after one that it refuses; the first refusal is the result.
    pub(super) fn tell(&mut self, commands: &[Command]) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for command in commands {
            self.push(&mut bytes, 0, command);
        }
        self.exchange(&bytes, first, commands.len()).map_err(|error| error.errno)
    }

    /// Has the kernel list the tables of `family`, and hands each message of the list to `each`.
    pub(super) fn list_tables(
        &mut self,
        family: NetfilterProtoFamily,
        mut each: impl FnMut(NfTablesMessage),
    ) -> Result<(), Errno> {
        let message = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }).into();
        let mut bytes = Vec::new();
        self.push(&mut bytes, 0, &Command { family, message, flags: NLM_F_DUMP });
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut failed = None;
        // The kernel goes on with a long list whenever a piece of it is read.
        self.answers(|_, answer| match answer {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::NfTables(message),
                ..
            }) => each(message),
            NetlinkPayload::Error(answer) => failed = answer.code.or(failed),
            _ => {}
        })?;
        failed.map_or(Ok(()), |code| Err(Errno::from_raw(code.get().saturating_neg())))
    }

    /// Sends `count` commands, the first of which has the sequence number `first`, and reads what became of them.
    fn exchange(&self, bytes: &[u8], first: u32, count: usize) -> Result<(), BatchError> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut made = Acknowledged::none_of(first, count);
        self.answers(|header, answer| made.count(header, &answer))?;
        made.whole()
    }

    /// Appends one command to `bytes`, with the next sequence number.
    fn push(&mut self, bytes: &mut Vec<u8>, resource: u16, command: &Command) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = command.flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let payload = NetfilterMessage::new(
            NetfilterHeader::new(command.family, 0, resource),
            command.message.clone(),
        );
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        message.finalize();
        let mut piece = vec![0; message.buffer_len()];
        message.emit(&mut piece);
        bytes.extend(piece);
    }

    /// Reads all answers.
    fn answers(
        &self,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<NetfilterMessage>),
    ) -> Result<(), Errno> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return Ok(()),
                received => received?,
            };
            read_answers(buffer.get(..length).ok_or(Errno::EPROTO)?, &mut each)?;
        }
    }
}

/// Parses one datagram of the kernel's, and hands each message in it to `each`. A length beyond its end is an error.
pub fn read_answers(
    mut rest: &[u8],
    mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<NetfilterMessage>),
) -> Result<(), Errno> {
    while !rest.is_empty() {
        let packet = NetlinkBuffer::new_checked(rest).map_err(|_| Errno::EPROTO)?;
        let length = usize::try_from(packet.length()).map_err(|_| Errno::EPROTO)?;
        let this = rest.get(..length).ok_or(Errno::EPROTO)?;
        // What the crate cannot parse (an expression in another program's rule) is skipped.
        if let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(this) {
            each(&message.header, message.payload);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// What the kernel made of a batch of `count` messages, the first of which has the sequence number `first`.
#[derive(Debug)]
pub struct Acknowledged {
    first: u32,
    count: usize,
    /// How many messages the kernel says that it took.
    pub done: usize,
    /// The first that it says it refused.
    pub refused: Option<BatchError>,
}

impl Acknowledged {
    /// Before any answer.
    #[must_use]
    pub fn none_of(first: u32, count: usize) -> Self {
        Self { first, count, done: 0, refused: None }
    }

    /// Counts one answer. What is no acknowledgement and no error counts for nothing.
    pub fn count(&mut self, header: &NetlinkHeader, answer: &NetlinkPayload<NetfilterMessage>) {
        let NetlinkPayload::Error(answer) = answer else { return };
        let Some(code) = answer.code else {
            self.done += 1;
            return;
        };
        let at = usize::try_from(header.sequence_number.wrapping_sub(self.first)).ok();
        let at = at.filter(|at| *at < self.count);
        let errno = Errno::from_raw(code.get().saturating_neg());
        self.refused = self.refused.or(Some(BatchError { at, errno }));
    }

    /// What was not acknowledged was not done.
    pub fn whole(self) -> Result<(), BatchError> {
        match self.refused {
            Some(refused) => Err(refused),
            None if self.done != self.count => Err(Errno::EPROTO.into()),
            None => Ok(()),
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
