//! What a SOCKS client asks for. Any program of the machine may be one, a browser on a stranger's errand among them.

use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use knockknock::client::knock::profile_match::Host;
use knockknock::client::proxy::auth::Credentials;
use knockknock::client::proxy::socks::request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest request that there is, in bytes: with a password and a name for SOCKS 5; with two names for SOCKS 4.
const LONGEST: usize = 1032;
/// What the proxy says to a client before its request is granted, at the most: a method, a password's fate, a refusal.
const MOST_SAID: usize = 2 + 2 + 10;

/// The bytes as those of a client: the first says whether the proxy asks for a password, and all the rest is what the
/// client sends before it ends.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let Some((mode, sent)) = bytes.split_first() else { return false };
    let password = mode & 1 == 1;
    let Some(told) = tell(sent, password, usize::MAX) else { return false };
    // However the network cuts it.
    for at_once in [1, 3] {
        assert_eq!(tell(sent, password, at_once).as_ref(), Some(&told), "{at_once} at once");
    }
    assert!(told.taken <= LONGEST && told.said.len() <= MOST_SAID, "{told:?}");
    let wanted = by_the_book(sent, password);
    assert_eq!(told.wanted.clone().map(|(host, port)| (host, port, told.taken)), wanted);
    match &told.wanted {
        Some((host, port)) => {
            assert!(*port != 0 && *host != Host::Name(String::new()));
            let agreed: &[u8] = match (sent[0], password) {
                (4, _) => &[],
                (_, false) => &[5, 0],
                (_, true) => &[5, 2, 1, 0],
            };
            assert_eq!(told.said, agreed, "nothing is granted before there is a connection");
        }
        None => says_no_yes(&told.said),
    }
    told.wanted.is_some()
}

/// A refused client is never told that it has a connection.
fn says_no_yes(said: &[u8]) {
    assert_ne!(said.get(..2), Some(&[0, 90][..]), "SOCKS 4");
    if let Some(reply) = said.len().checked_sub(10) {
        assert!(said[reply] == 5 && said[reply + 1] != 0, "SOCKS 5: {said:?}");
    }
}

/// What became of a client.
#[derive(Debug, PartialEq)]
struct Told {
    wanted: Option<(Host, u16)>,
    /// How many of its bytes were read.
    taken: usize,
    /// What it was told.
    said: Vec<u8>,
}

/// Polled once: a client that has sent everything and ended is never waited for.
fn tell(sent: &[u8], password: bool, at_once: usize) -> Option<Told> {
    let credentials = password.then(|| Credentials::parse("me:secret").unwrap());
    let mut client = Client { sent, taken: 0, at_once, said: Vec::new() };
    let wanted = {
        let read = request(*sent.first()?, &mut client, credentials.as_ref(), async {});
        match pin!(read).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(request)) => Some((request.host, request.port)),
            Poll::Ready(Err(why)) => {
                assert!(!why.to_string().is_empty());
                None
            }
            Poll::Pending => panic!("it waits for a client that has ended"),
        }
    };
    Some(Told { wanted, taken: client.taken, said: client.said })
}

/// The host, the port and the length of a request: RFC 1928 and 1929, and the two pages about SOCKS 4 and 4a.
fn by_the_book(sent: &[u8], password: bool) -> Option<(Host, u16, usize)> {
    let mut left = sent;
    let (host, port) = match (take(&mut left, 1)?[0], password) {
        (4, false) => version_4(&mut left)?,
        (5, _) => version_5(&mut left, password)?,
        _ => return None,
    };
    let is_somewhere = port != 0 && host != Host::Name(String::new());
    is_somewhere.then_some((host, port, sent.len() - left.len()))
}

fn version_4(left: &mut &[u8]) -> Option<(Host, u16)> {
    let command = take(left, 1)?[0];
    let port = number(take(left, 2)?);
    let address: [u8; 4] = take(left, 4)?.try_into().unwrap();
    until_nul(left)?;
    let host = match address {
        [0, 0, 0, last] if last != 0 => named(until_nul(left)?)?,
        address => Host::Address(IpAddr::from(address)),
    };
    (command == 1).then_some((host, port))
}

fn version_5(left: &mut &[u8], password: bool) -> Option<(Host, u16)> {
    let method = if password { 2 } else { 0 };
    if !counted(left)?.contains(&method) {
        return None;
    }
    if password {
        take(left, 1)?;
        if (counted(left)?, counted(left)?) != (b"me", b"secret") {
            return None;
        }
    }
    let head = take(left, 4)?;
    let host = match head[3] {
        1 => Host::Address(<[u8; 4]>::try_from(take(left, 4)?).unwrap().into()),
        3 => named(counted(left)?)?,
        4 => {
            let address = IpAddr::from(<[u8; 16]>::try_from(take(left, 16)?).unwrap());
            Host::Address(address.to_canonical())
        }
        _ => return None,
    };
    let port = number(take(left, 2)?);
    (head[..2] == [5, 1]).then_some((host, port))
}

/// A name, which may be an address that was written as one, in brackets or without.
fn named(bytes: &[u8]) -> Option<Host> {
    let name = str::from_utf8(bytes).ok()?;
    let bare = match bytes {
        [b'[', .., b']'] => &name[1..name.len() - 1],
        _ => name,
    };
    let address = bare.parse::<IpAddr>().map(|address| Host::Address(address.to_canonical()));
    Some(address.unwrap_or_else(|_| Host::Name(name.to_owned())))
}

fn take<'s>(left: &mut &'s [u8], count: usize) -> Option<&'s [u8]> {
    let (taken, rest) = left.split_at_checked(count)?;
    *left = rest;
    Some(taken)
}

fn counted<'s>(left: &mut &'s [u8]) -> Option<&'s [u8]> {
    let count = take(left, 1)?[0];
    take(left, count.into())
}

fn until_nul<'s>(left: &mut &'s [u8]) -> Option<&'s [u8]> {
    let end = left.iter().take(512).position(|byte| *byte == 0)?;
    let text = take(left, end)?;
    take(left, 1)?;
    Some(text)
}

fn number(two: &[u8]) -> u16 {
    u16::from(two[0]) << 8 | u16::from(two[1])
}

/// A client that has sent all that it will: never one to wait for.
struct Client<'s> {
    sent: &'s [u8],
    taken: usize,
    at_once: usize,
    said: Vec<u8>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.sent[self.taken..];
        let count = left.len().min(buffer.remaining()).min(self.at_once);
        buffer.put_slice(&left[..count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.said.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
