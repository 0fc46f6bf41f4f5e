//! A conversation with `nf_tables` over netlink. Owns the socket, the sequence numbers and the answers; knows no rule of ours.
//!
//! The kernel works a request off inside the `send` that carries it, so every answer waits in the socket when `send`
//! returns. Answers are therefore read without waiting: nothing here can block, and none is left behind for later.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
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

/// Which part of a batch the kernel refused, and why.
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

/// One message that is no part of a transaction, with its family and the netlink flags that it needs.
pub(super) type SingleMessage = (NetfilterProtoFamily, NetfilterMessageInner, u16);

/// A `NETLINK_NETFILTER` socket that talks to the kernel and to nobody else.
#[derive(Debug)]
pub(super) struct Netlink {
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

    /// Has the kernel do all of `messages` at once or none of them. Each comes with the netlink flags that it needs.
    pub(super) fn transact(
        &mut self,
        messages: &[(NfTablesMessage, u16)],
    ) -> Result<(), BatchError> {
        let mut bytes = Vec::with_capacity(BUFFER);
        self.push(
            &mut bytes,
            NetfilterProtoFamily::Unspec,
            NFTABLES,
            ControlMessage::BatchBegin,
            NLM_F_REQUEST,
        );
        let first = self.sequence.wrapping_add(1);
        for (message, flags) in messages {
            let flags = flags | NLM_F_REQUEST | NLM_F_ACK;
            self.push(&mut bytes, NetfilterProtoFamily::Inet, 0, message.clone(), flags);
        }
        self.push(
            &mut bytes,
            NetfilterProtoFamily::Unspec,
            NFTABLES,
            ControlMessage::BatchEnd,
            NLM_F_REQUEST,
        );
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;

        let mut made = Acknowledged::none_of(first, messages.len());
        self.answers(|header, answer| made.count(header, &answer))?;
        made.whole()
    }

    /// Has the kernel do each of `messages`, one after the other, whatever becomes of those before it. What became of each.
    pub(super) fn send_each(
        &mut self,
        messages: &[SingleMessage],
    ) -> Result<Vec<Result<(), Errno>>, Errno> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (family, message, flags) in messages {
            self.push(&mut bytes, *family, 0, message.clone(), flags | NLM_F_REQUEST | NLM_F_ACK);
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        // What is not acknowledged was not done.
        let mut done = vec![Err(Errno::EPROTO); messages.len()];
        self.answers(|header, answer| {
            let at = usize::try_from(header.sequence_number.wrapping_sub(first)).ok();
            if let (NetlinkPayload::Error(answer), Some(done)) =
                (answer, at.and_then(|at| done.get_mut(at)))
            {
                *done = answer
                    .code
                    .map_or(Ok(()), |code| Err(Errno::from_raw(code.get().saturating_neg())));
            }
        })?;
        Ok(done)
    }

    /// Has the kernel list something, and hands each of the list's messages to `each` with its family.
    pub(super) fn dump(
        &mut self,
        family: NetfilterProtoFamily,
        what: NfTablesMessage,
        mut each: impl FnMut(NetfilterProtoFamily, NfTablesMessage),
    ) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        self.push(&mut bytes, family, 0, what, NLM_F_REQUEST | NLM_F_DUMP);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut failed = None;
        // The kernel goes on with a long list whenever a piece of it is read.
        self.answers(|_, answer| match answer {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                header,
                inner: NetfilterMessageInner::NfTables(message),
                ..
            }) => each(header.family, message),
            NetlinkPayload::Error(answer) => failed = answer.code.or(failed),
            _ => {}
        })?;
        failed.map_or(Ok(()), |code| Err(Errno::from_raw(code.get().saturating_neg())))
    }

    /// Appends one message to `bytes`, with the next sequence number.
    fn push(
        &mut self,
        bytes: &mut Vec<u8>,
        family: NetfilterProtoFamily,
        resource: u16,
        message: impl Into<NetfilterMessageInner>,
        flags: u16,
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.emit(bytes.get_mut(start..).unwrap_or_default());
    }

    /// Reads all answers that there are.
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

/// Takes one piece of what the kernel sent apart, and hands each message in it to `each`. A length that the piece does not
/// have is an error.
pub fn read_answers(
    mut rest: &[u8],
    mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<NetfilterMessage>),
) -> Result<(), Errno> {
    while !rest.is_empty() {
        let packet = NetlinkBuffer::new_checked(rest).map_err(|_| Errno::EPROTO)?;
        let length = usize::try_from(packet.length()).map_err(|_| Errno::EPROTO)?;
        let this = rest.get(..length).ok_or(Errno::EPROTO)?;
        // A rule of somebody else's with an expression that the crate cannot read is not ours to complain about.
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
