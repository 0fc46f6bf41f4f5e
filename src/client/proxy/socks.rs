//! The SOCKS side: what a client asks for, and the answer. SOCKS 5 by the library; 4 and 4a are a few bytes.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fast_socks5::server::{
    AuthMethodSuccessState, Socks5ServerProtocol, SocksServerError, StandardAuthentication,
    StandardAuthenticationStarted, states,
};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::auth::Credentials;
use crate::client::known::Host;

/// Names in a SOCKS 4 request are shorter than this, in bytes.
const MOST_NAME: u64 = 512;
/// A wrong password costs its sender this long.
const WRONG_PASSWORD: Duration = Duration::from_secs(1);

/// A client that waits for its connection.
pub(super) struct Request {
    pub(super) host: Host,
    pub(super) port: u16,
    client: Client,
}

enum Client {
    V5(Socks5ServerProtocol<TcpStream, states::CommandRead>),
    V4(TcpStream),
}

/// Why a client gets no connection, as far as SOCKS can tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unreachable,
    Refused,
    TimedOut,
    Other,
}

/// A client that is not served.
#[derive(Debug)]
pub(super) struct NotSocks(String);

impl std::fmt::Display for NotSocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SocksServerError> for NotSocks {
    fn from(why: SocksServerError) -> Self {
        Self(why.to_string())
    }
}

impl From<io::Error> for NotSocks {
    fn from(why: io::Error) -> Self {
        Self(why.to_string())
    }
}

/// Reads what the client wants. A client that wants what the proxy does not do is told so and is an error here.
pub(super) async fn request(
    client: TcpStream,
    auth: Option<&Credentials>,
) -> Result<Request, NotSocks> {
    let mut version = [0];
    client.peek(&mut version).await?;
    match version {
        [4] if auth.is_none() => request_v4(client).await,
        // SOCKS 4 knows no passwords.
        [4] => {
            refuse_v4(client).await?;
            Err(NotSocks("SOCKS 4, where a password is asked for".into()))
        }
        _ => request_v5(client, auth).await,
    }
}

async fn request_v5(client: TcpStream, auth: Option<&Credentials>) -> Result<Request, NotSocks> {
    let proto = match auth {
        None => Socks5ServerProtocol::accept_no_auth(client).await?,
        Some(credentials) => password(client, credentials).await?,
    };
    let (proto, command, target) = proto.read_command().await?;
    if !matches!(command, Socks5Command::TCPConnect) {
        proto.reply_error(&ReplyError::CommandNotSupported).await?;
        return Err(NotSocks(format!("{command:?}, where only CONNECT is served")));
    }
    let (host, port) = match target {
        TargetAddr::Ip(address) => (Host::Address(address.ip().to_canonical()), address.port()),
        TargetAddr::Domain(name, port) => (Host::new(name), port),
    };
    Ok(Request { host, port, client: Client::V5(proto) })
}

async fn password(
    client: TcpStream,
    credentials: &Credentials,
) -> Result<Socks5ServerProtocol<TcpStream, states::Authenticated>, NotSocks> {
    let methods = StandardAuthentication::allow_no_auth(false);
    match Socks5ServerProtocol::start(client).negotiate_auth(methods).await? {
        StandardAuthenticationStarted::PasswordAuthentication(started) => {
            let (user, password, received) = started.read_username_password().await?;
            if credentials.are(&user, &password) {
                return Ok(received.accept().await?.finish_auth());
            }
            tokio::time::sleep(WRONG_PASSWORD).await;
            received.reject().await?;
            Err(NotSocks("wrong name or password".into()))
        }
        // Not offered above, so not chosen.
        StandardAuthenticationStarted::NoAuthentication(_) => Err(NotSocks("no password".into())),
    }
}

/// `4, command, port, address, user, 0`, and for 4a (address 0.0.0.x) `name, 0`.
async fn request_v4(client: TcpStream) -> Result<Request, NotSocks> {
    let mut reader = BufReader::with_capacity(64, client);
    let mut head = [0; 8];
    reader.read_exact(&mut head).await?;
    let [_, command, p0, p1, a, b, c, d] = head;
    let port = u16::from_be_bytes([p0, p1]);
    read_to_nul(&mut reader).await?;
    let host = match (a, b, c, d) {
        (0, 0, 0, 1..) => {
            let name = String::from_utf8(read_to_nul(&mut reader).await?)
                .map_err(|_| NotSocks("a name that is no text".into()))?;
            Host::new(name)
        }
        _ => Host::Address(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
    };
    // A client that has more to say before it is answered would lose it with the buffer.
    if !reader.buffer().is_empty() {
        return Err(NotSocks("SOCKS 4 with bytes after the request".into()));
    }
    let client = reader.into_inner();
    if command != 1 {
        refuse_v4(client).await?;
        return Err(NotSocks(format!("SOCKS 4 command {command}, where only CONNECT is served")));
    }
    Ok(Request { host, port, client: Client::V4(client) })
}

async fn read_to_nul(reader: &mut BufReader<TcpStream>) -> Result<Vec<u8>, NotSocks> {
    let mut bytes = Vec::new();
    reader.take(MOST_NAME).read_until(0, &mut bytes).await?;
    match bytes.pop() {
        Some(0) => Ok(bytes),
        _ => Err(NotSocks("a name that does not end".into())),
    }
}

const V4_GRANTED: [u8; 8] = [0, 90, 0, 0, 0, 0, 0, 0];
const V4_REFUSED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

async fn refuse_v4(mut client: TcpStream) -> io::Result<()> {
    client.write_all(&V4_REFUSED).await
}

impl Request {
    /// Tells the client that its connection stands, coming from `local`; its bytes follow.
    pub(super) async fn succeed(self, local: SocketAddr) -> Result<TcpStream, NotSocks> {
        match self.client {
            Client::V5(proto) => Ok(proto.reply_success(local).await?),
            Client::V4(mut client) => {
                client.write_all(&V4_GRANTED).await?;
                Ok(client)
            }
        }
    }

    /// Tells the client that there is no connection.
    pub(super) async fn refuse(self, refusal: Refusal) -> Result<(), NotSocks> {
        let error = match refusal {
            Refusal::Unreachable => ReplyError::HostUnreachable,
            Refusal::Refused => ReplyError::ConnectionRefused,
            Refusal::TimedOut => ReplyError::ConnectionTimeout,
            Refusal::Other => ReplyError::GeneralFailure,
        };
        match self.client {
            Client::V5(proto) => Ok(proto.reply_error(&error).await?),
            Client::V4(client) => Ok(refuse_v4(client).await?),
        }
    }
}
