//! The answer to a client that speaks HTTP: a browser with the port in the wrong field.
//!
//! Ignores what the client sends, so nothing is parsed or sent back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The first byte of TLS: a handshake record (RFC 8446).
pub(super) const TLS: u8 = 0x16;

/// How long, and how many bytes, the rest of a request is waited for: a socket that is closed with unread bytes is reset,
/// and its client may never see the answer.
const REST_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_REST: u64 = 64 * 1024;

/// Answers 400 with what this is and how to use it, and closes.
pub(super) async fn explain(mut client: TcpStream) -> io::Result<()> {
    let answer = answer(client.local_addr()?);
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    let mut rest = client.take(MAX_REST);
    let _ = timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

fn answer(proxy: SocketAddr) -> String {
    let (host, port) = (proxy.ip().to_canonical(), proxy.port());
    let address = SocketAddr::new(host, port);
    let text = format!(
        "This is knock-proxy, a SOCKS proxy; it does not speak HTTP.\n\n\
         Browser: SOCKS host {host}, port {port}, SOCKS v5, remote DNS (\"Proxy DNS when using SOCKS v5\");\n\
         leave the fields for HTTP and HTTPS proxies empty.\n\
         curl:    curl --socks5-hostname {address} https://host.example/\n"
    );
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_http_as_long_as_it_says_and_names_the_proxy_s_own_address() {
        for (proxy, host, address) in [
            ("127.0.0.1:1080", "host 127.0.0.1, port 1080", "127.0.0.1:1080 "),
            ("[::1]:1081", "host ::1, port 1081", "[::1]:1081 "),
            ("[::ffff:127.0.0.1]:1080", "host 127.0.0.1, port 1080", "127.0.0.1:1080 "),
        ] {
            let answer = answer(proxy.parse().unwrap());
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            let curl = format!("--socks5-hostname {address}");
            assert!(body.contains(host) && body.contains(&curl), "{body}");
        }
    }
}
