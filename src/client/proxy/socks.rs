//! The SOCKS side: what a client asks for, and the answer. SOCKS 5 by the library; 4 and 4a are a few bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fast_socks5::server::{
    AuthMethodSuccessState, Socks5ServerProtocol, SocksServerError, StandardAuthentication,
    StandardAuthenticationStarted, states,
};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::auth::Credentials;
use crate::client::knock::profile_match::Host;

/// Names in a SOCKS 4 request are shorter than this, in bytes.
const MAX_NAME: usize = 512;

/// A client that waits for its connection.
pub struct SocksRequest<S> {
    /// Where it wants to be connected to: never an empty name.
    pub host: Host,
    /// The port there: never 0.
    pub port: u16,
    client: Client<S>,
}

enum Client<S> {
    V5(Socks5ServerProtocol<S, states::CommandRead>),
    V4(S),
}

/// Why a client gets no connection, as far as SOCKS has a reply for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocksRefusal {
    /// There is no such host, or no route to it.
    Unreachable,
    /// The host refused.
    Refused,
    /// The host did not answer.
    TimedOut,
    /// Something else.
    Other,
}

/// Why a client is not served.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What it said is no SOCKS 5.
    #[error(transparent)]
    Protocol(#[from] SocksServerError),
    /// It closed the connection before its request.
    #[error("it left without a word")]
    Silent,
    /// It speaks HTTP.
    #[error("HTTP, where SOCKS is spoken: it was told how to set that up")]
    Http,
    /// It speaks TLS.
    #[error("TLS, where SOCKS is spoken")]
    Tls,
    /// SOCKS 4 knows no passwords.
    #[error("SOCKS 4, where a password is asked for")]
    Version4,
    /// It has not sent a password.
    #[error("no password")]
    NoPassword,
    /// It has sent a wrong one.
    #[error("wrong name or password")]
    WrongPassword,
    /// It wants something else than a connection.
    #[error("{0:?}, where only CONNECT is served")]
    Command(Socks5Command),
    /// The same by SOCKS 4.
    #[error("SOCKS 4 command {0}, where only CONNECT is served")]
    Command4(u8),
    /// No connection can be made there, so the name is not looked up.
    #[error("no name, or port 0")]
    Nowhere,
    /// The name is no text.
    #[error("a name that is no text")]
    NotText,
    /// The name is too long.
    #[error("a name that does not end")]
    Endless,
}

/// Reads what the client wants, and not a byte more. A request that the proxy does not support gets a reply and is an
/// error here. `version` is its first byte, still to be read; `wrong` is waited for after a wrong password.
pub async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    version: u8,
    client: S,
    auth: Option<&Credentials>,
    wrong: impl Future<Output = ()>,
) -> Result<SocksRequest<S>, SocksError> {
    match version {
        4 if auth.is_none() => request_v4(client).await,
        4 => {
            refuse_v4(client).await?;
            Err(SocksError::Version4)
        }
        _ => request_v5(client, auth, wrong).await,
    }
}

async fn request_v5<S: AsyncRead + AsyncWrite + Unpin>(
    client: S,
    auth: Option<&Credentials>,
    wrong: impl Future<Output = ()>,
) -> Result<SocksRequest<S>, SocksError> {
    let proto = match auth {
        None => Socks5ServerProtocol::accept_no_auth(client).await?,
        Some(credentials) => password(client, credentials, wrong).await?,
    };
    let (proto, command, target) = proto.read_command().await?;
    if !matches!(command, Socks5Command::TCPConnect) {
        proto.reply_error(&ReplyError::CommandNotSupported).await?;
        return Err(SocksError::Command(command));
    }
    let (host, port) = match target {
        TargetAddr::Ip(address) => (Host::Address(address.ip().to_canonical()), address.port()),
        TargetAddr::Domain(name, port) => (Host::new(name), port),
    };
    if is_nowhere(&host, port) {
        proto.reply_error(&ReplyError::AddressTypeNotSupported).await?;
        return Err(SocksError::Nowhere);
    }
    Ok(SocksRequest { host, port, client: Client::V5(proto) })
}

fn is_nowhere(host: &Host, port: u16) -> bool {
    port == 0 || matches!(host, Host::Name(name) if name.is_empty())
}

async fn password<S: AsyncRead + AsyncWrite + Unpin>(
    client: S,
    credentials: &Credentials,
    wrong: impl Future<Output = ()>,
) -> Result<Socks5ServerProtocol<S, states::Authenticated>, SocksError> {
    let methods = StandardAuthentication::allow_no_auth(false);
    match Socks5ServerProtocol::start(client).negotiate_auth(methods).await? {
        StandardAuthenticationStarted::PasswordAuthentication(started) => {
            let (user, password, received) = started.read_username_password().await?;
            if credentials.are(&user, &password) {
                return Ok(received.accept().await?.finish_auth());
            }
            wrong.await;
            received.reject().await?;
            Err(SocksError::WrongPassword)
        }
        // Not offered above, so not chosen.
        StandardAuthenticationStarted::NoAuthentication(_) => Err(SocksError::NoPassword),
    }
}

/// `4, command, port, address, user, 0`, and for 4a (address 0.0.0.x) `name, 0`.
async fn request_v4<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: S,
) -> Result<SocksRequest<S>, SocksError> {
    let mut head = [0; 8];
    client.read_exact(&mut head).await?;
    let [_, command, p0, p1, a, b, c, d] = head;
    let port = u16::from_be_bytes([p0, p1]);
    read_to_nul(&mut client).await?;
    let host = match (a, b, c, d) {
        (0, 0, 0, 1..) => {
            let name = String::from_utf8(read_to_nul(&mut client).await?)
                .map_err(|_| SocksError::NotText)?;
            Host::new(name)
        }
        _ => Host::Address(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
    };
    if command != 1 {
        refuse_v4(client).await?;
        return Err(SocksError::Command4(command));
    }
    if is_nowhere(&host, port) {
        refuse_v4(client).await?;
        return Err(SocksError::Nowhere);
    }
    Ok(SocksRequest { host, port, client: Client::V4(client) })
}

/// Byte by byte: what follows is for the other end of the connection to read.
async fn read_to_nul(client: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, SocksError> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_NAME {
        match client.read_u8().await? {
            0 => return Ok(bytes),
            byte => bytes.push(byte),
        }
    }
    Err(SocksError::Endless)
}

const V4_GRANTED: [u8; 8] = [0, 90, 0, 0, 0, 0, 0, 0];
const V4_REFUSED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

async fn refuse_v4(mut client: impl AsyncWrite + Unpin) -> io::Result<()> {
    client.write_all(&V4_REFUSED).await
}

impl<S: AsyncRead + AsyncWrite + Unpin> SocksRequest<S> {
    /// Tells the client that its connection stands, coming from `local`; its bytes follow.
    pub(super) async fn succeed(self, local: SocketAddr) -> Result<S, SocksError> {
        match self.client {
            Client::V5(proto) => Ok(proto.reply_success(local).await?),
            Client::V4(mut client) => {
                client.write_all(&V4_GRANTED).await?;
                Ok(client)
            }
        }
    }

    /// Tells the client that there is no connection.
    pub(super) async fn refuse(self, refusal: SocksRefusal) -> Result<(), SocksError> {
        let error = match refusal {
            SocksRefusal::Unreachable => ReplyError::HostUnreachable,
            SocksRefusal::Refused => ReplyError::ConnectionRefused,
            SocksRefusal::TimedOut => ReplyError::ConnectionTimeout,
            SocksRefusal::Other => ReplyError::GeneralFailure,
        };
        match self.client {
            Client::V5(proto) => Ok(proto.reply_error(&error).await?),
            Client::V4(client) => Ok(refuse_v4(client).await?),
        }
    }
}
