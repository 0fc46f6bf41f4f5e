//! A connection without a knock, for a host that there is no profile for: `knock -W` can then stand for `nc` under
//! `Host *`. Needs no privilege.
//!
//! The addresses are tried in the resolver's order, each begun when the one before has failed or is slow (RFC 8305), so
//! that an address without an answer costs a fraction of a second, not minutes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::dial::dial;
use crate::client::knock::route::{Route, RouteError};
use crate::client::say::reason;

/// No connection after this long: give up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// If an address has not answered after this time, the next one is tried too.
const NEXT_ADDRESS_PAUSE: Duration = Duration::from_millis(250);

/// What may be said with these errors.
pub(crate) const HINT: &str = "there is no such profile, so no knock was sent";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlainError {
    /// The name has no address.
    #[error("no address for this name ({})", reason(.0))]
    Unresolved(io::Error),
    /// No address may be used, or none can be reached.
    #[error(transparent)]
    NoRoute(#[from] RouteError),
    /// What came of each address that was tried; no answer where there is nothing.
    #[error("no connection ({})", in_words(.0))]
    Failed(Vec<(SocketAddr, Option<io::Error>)>),
}

fn in_words(tried: &[(SocketAddr, Option<io::Error>)]) -> String {
    let answers = tried.iter().map(|(address, answer)| {
        let answer = answer.as_ref().map_or_else(|| "no answer".to_owned(), reason);
        format!("{address}: {answer}")
    });
    answers.collect::<Vec<_>>().join(", ")
}

/// Connects along the first of `routes` that leads there, to the port of its target.
pub(crate) async fn connect(routes: Vec<Route>) -> Result<TcpStream, PlainError> {
    let end = Instant::now() + CONNECT_TIMEOUT;
    let mut tried: Vec<(SocketAddr, Option<io::Error>)> = Vec::new();
    let mut left = routes.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(route) = left.next() {
            let nth = tried.len();
            tried.push((route.target, None));
            attempts.spawn(async move { (nth, dial(&route, route.target.port()).await) });
        } else if attempts.is_empty() {
            return Err(PlainError::Failed(tried));
        }
        let next = if left.len() == 0 { end } else { end.min(Instant::now() + NEXT_ADDRESS_PAUSE) };
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok((_, Ok(stream))) => return Ok(stream),
                Ok((nth, Err(why))) => {
                    if let Some((_, answer)) = tried.get_mut(nth) {
                        *answer = Some(why);
                    }
                }
                Err(_) => {}
            },
            () = sleep_until(next) => {
                if Instant::now() >= end {
                    return Err(PlainError::Failed(tried));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::route::{Family, find_routes, resolve};
    use std::net::{IpAddr, TcpListener};

    fn route(address: SocketAddr) -> Route {
        Route { source: address.ip(), target: address }
    }

    /// A port of loopback that nobody listens on.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_for_the_next() {
        let listener = TcpListener::bind("127.0.0.2:0").unwrap();
        let routes = vec![route(closed()), route(listener.local_addr().unwrap())];
        let stream = connect(routes).await.unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_connection_comes_from_the_source_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = IpAddr::from([127, 0, 0, 7]);
        let route = Route::find(listener.local_addr().unwrap(), Some(source)).unwrap();
        let stream = connect(vec![route]).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
        assert_eq!(listener.accept().unwrap().1.ip(), source);
    }

    #[tokio::test]
    async fn what_failed_is_said_of_each_address() {
        let (a, b) = (closed(), closed());
        let text = connect(vec![route(a), route(b)]).await.unwrap_err().to_string();
        assert_eq!(
            text,
            format!("no connection ({a}: Connection refused, {b}: Connection refused)")
        );
        let unresolved = resolve("no-such-host.invalid", 22).map_err(PlainError::Unresolved);
        let text = unresolved.unwrap_err().to_string();
        assert!(text.starts_with("no address for this name ("), "{text}");
        let text = PlainError::from(find_routes(&[a], Family::V6, None).unwrap_err()).to_string();
        assert!(text.contains("-6"), "{text}");
    }
}
