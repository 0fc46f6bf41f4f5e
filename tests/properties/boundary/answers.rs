//! What comes from the kernel on the helper's netlink socket: a piece of a stream of messages, each with its length.

use knockknock::privileged::firewall::netlink::{Acknowledged, BatchError, read_answers};

/// How long a message's header is.
const HEADER: usize = 16;
/// `NLMSG_ERROR`: an error, or an acknowledgement if its number is 0.
const ERROR: u16 = 2;

/// The first four bytes say what was asked: a first sequence number and how many messages. The rest is the answer. Says
/// whether the kernel refused or did all of it, so that the answer was taken for one.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let Some((&[low, high, count, _], bytes)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let first = u32::from(u16::from_le_bytes([low, high]));
    let count = usize::from(count % 8);
    let mut made = Acknowledged::none_of(first, count);
    let mut handed = 0_usize;
    let whole = read_answers(bytes, |header, answer| {
        handed += 1;
        made.count(header, &answer);
    });

    let walked = headers(bytes);
    assert_eq!(whole.is_ok(), walked.is_whole, "a length that is not there is an error");
    assert!(handed <= walked.messages.len(), "each message is handed on once at most");
    let errors = |wanted: fn(i32) -> bool| {
        walked.messages.iter().filter(move |message| message.code.is_some_and(wanted))
    };
    assert_eq!(made.done, errors(|code| code == 0).count(), "one acknowledgement a header");
    let refused = errors(|code| code != 0).next();
    assert_eq!(made.refused.is_some(), refused.is_some());
    if let (Some(BatchError { at, .. }), Some(message)) = (made.refused, refused) {
        let after = usize::try_from(message.sequence.wrapping_sub(first)).unwrap();
        assert_eq!(at, Some(after).filter(|after| *after < count), "which of the messages");
    }
    let is_done = refused.is_none() && errors(|code| code == 0).count() == count;
    assert_eq!(made.whole().is_ok(), is_done, "what was not acknowledged was not done");
    whole.is_ok() && handed > 0 && (refused.is_some() || is_done)
}

struct Walked {
    messages: Vec<Message>,
    is_whole: bool,
}

struct Message {
    sequence: u32,
    /// The number of an error message that has one.
    code: Option<i32>,
}

/// The headers alone, by their offsets: length, kind, flags, sequence number, port.
fn headers(bytes: &[u8]) -> Walked {
    let number =
        |at: usize| bytes.get(at..at + 4).map(|four| u32::from_ne_bytes(four.try_into().unwrap()));
    let (mut messages, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = number(at).map(|length| usize::try_from(length).unwrap());
        let Some(length) = length.filter(|length| *length >= HEADER && *length <= bytes.len() - at)
        else {
            return Walked { messages, is_whole: false };
        };
        let kind = u16::from_ne_bytes([bytes[at + 4], bytes[at + 5]]);
        let code = number(at + HEADER).filter(|_| kind == ERROR && length >= HEADER + 4);
        let sequence = number(at + 8).unwrap();
        messages.push(Message { sequence, code: code.map(u32::cast_signed) });
        at += length.div_ceil(4) * 4;
    }
    Walked { messages, is_whole: true }
}
