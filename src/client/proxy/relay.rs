//! Moves bytes between a client and its server.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes moved at once, each way.
const CHUNK: usize = 16 * 1024;
/// TCP keepalive: idle time, interval and number of probes. A peer that has vanished is detected after some ten
/// minutes, about as long as TCP waits for the acknowledgement of sent bytes.
const KEEPALIVE_IDLE: u32 = 60;
const KEEPALIVE_INTERVAL: u32 = 60;
const KEEPALIVE_PROBES: u32 = 10;

/// Moves bytes both ways until both have ended; an end is passed on as an end. A break is passed on as a break: a
/// client must not take half a file for a whole one.
///
/// A peer that has half-closed may have vanished, and the other may never notice if it has nothing to send. So a
/// connection of which one way has ended, and the other has been idle for `half_closed_timeout`, is broken off.
pub(super) async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    half_closed_timeout: Duration,
) {
    for stream in [&client, &server] {
        // Without it, a vanished peer is only detected later.
        let _ = keep_alive(stream);
    }
    if move_bytes(&mut client, &mut server, half_closed_timeout).await.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(stream, sockopt::KeepAlive, &true)
}

async fn move_bytes(
    client: &mut TcpStream,
    server: &mut TcpStream,
    half_closed_timeout: Duration,
) -> io::Result<()> {
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let moved = AtomicU64::new(0);
    let mut up = pin!(copy(from_client, to_server, &moved));
    let mut down = pin!(copy(from_server, to_client, &moved));
    tokio::select! {
        done = &mut up => {
            done?;
            while_not_idle(down, &moved, half_closed_timeout).await
        }
        done = &mut down => {
            done?;
            while_not_idle(up, &moved, half_closed_timeout).await
        }
    }
}

/// One way: each piece as it comes, then the end. `moved` counts the pieces.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    while from.read_buf(&mut chunk).await? > 0 {
        to.write_all(&chunk).await?;
        chunk.clear();
        moved.fetch_add(1, Relaxed);
    }
    to.shutdown().await
}

/// Waits for `rest` as long as pieces move.
async fn while_not_idle(
    mut rest: impl Future<Output = io::Result<()>> + Unpin,
    moved: &AtomicU64,
    limit: Duration,
) -> io::Result<()> {
    loop {
        let before = moved.load(Relaxed);
        match timeout(limit, &mut rest).await {
            Ok(done) => return done,
            Err(_) if moved.load(Relaxed) == before => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    const SHORT: Duration = Duration::from_millis(50);

    /// Client and server, with a relay between them that has `limit`.
    async fn relayed(limit: Duration) -> (TcpStream, TcpStream, JoinHandle<()>) {
        let (client, inner_client) = pair().await;
        let (inner_server, server) = pair().await;
        (client, server, tokio::spawn(relay(inner_client, inner_server, limit)))
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    async fn read_to_end(mut stream: TcpStream) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    #[tokio::test]
    async fn a_client_that_has_ended_gets_all_of_a_slow_answer() {
        let (mut client, mut server, relay) = relayed(SHORT * 8).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let answer = async {
            let mut question = [0; 9];
            assert_eq!(server.read(&mut question).await.unwrap(), 8);
            assert_eq!(server.read(&mut question).await.unwrap(), 0);
            // In all, longer than the limit.
            for _ in 0..12 {
                tokio::time::sleep(SHORT).await;
                server.write_all(b"answer").await.unwrap();
            }
            drop(server);
        };
        let (got, ()) = tokio::join!(read_to_end(client), answer);
        assert_eq!(got.unwrap(), b"answer".repeat(12));
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn a_half_closed_connection_on_which_nothing_moves_is_broken_off() {
        // Whichever side it is that has ended, gone or not.
        for client_ends in [true, false] {
            for gone in [true, false] {
                let (mut client, mut server, relay) = relayed(SHORT).await;
                if !client_ends {
                    std::mem::swap(&mut client, &mut server);
                }
                let ended = if gone {
                    drop(client);
                    None
                } else {
                    client.shutdown().await.unwrap();
                    Some(client)
                };
                relay.await.unwrap();
                if let Some(ended) = ended {
                    let error = read_to_end(ended).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                }
                // Its end was passed on before.
                assert_eq!(server.read(&mut [0]).await.unwrap_or(0), 0);
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_open_both_ways_may_be_silent() {
        let (mut client, mut server, relay) = relayed(SHORT).await;
        tokio::time::sleep(SHORT * 5).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read(&mut [0; 2]).await.unwrap(), 1);
        drop((client, server));
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn both_ends_are_asked_whether_they_are_there() {
        use nix::sys::socket::getsockopt;
        let (client, _server) = pair().await;
        keep_alive(&client).unwrap();
        assert!(getsockopt(&client, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&client, sockopt::TcpKeepIdle).unwrap(), KEEPALIVE_IDLE);
    }
}
