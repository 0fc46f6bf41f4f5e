//! Hosts and ports of the command line, as people write them for ssh. Pure.

use crate::client::knock::profile_match::is_plain_name;
use crate::layout::Request;

/// A host of the command line, as people write one for ssh: `[user@]HOST[:PORT]`. The user is ssh's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The host.
    pub(crate) host: String,
    /// The port, where one is named.
    pub(crate) port: Option<u16>,
}

fn parse_host(text: &str) -> Result<String, String> {
    if is_plain_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a HOST is the name of a profile: a plain name, no path".into())
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a port is 1 to 65535, as 22, tcp/22 or udp/51820".into()),
        Ok(port) => Ok(port),
    }
}

/// A knock carries the port alone: by what it opens, TCP or UDP, is the server's `allow`.
pub(super) fn parse_request(text: &str) -> Result<Request, String> {
    let port = ["tcp/", "udp/"].iter().find_map(|transport| text.strip_prefix(transport));
    parse_port(port.unwrap_or(text)).map(Request)
}

/// `[user@]HOST[:PORT]`. What has several colons and no brackets is an IPv6 address without a port.
pub(super) fn parse_target(text: &str) -> Result<Target, String> {
    let text = without_user(text);
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let form = "the form is [ADDRESS]:PORT";
        let (host, port) = rest.split_once(']').ok_or(form)?;
        let port = (!port.is_empty()).then(|| port.strip_prefix(':').ok_or(form)).transpose()?;
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        }
    };
    Ok(Target { host: parse_host(host)?, port: port.map(parse_port).transpose()? })
}

/// The host that a profile is made for: a name that each of these reads as that host, and that is no hidden file's.
pub(super) fn parse_new_host(text: &str) -> Result<String, String> {
    let Target { host, port } = parse_target(text)?;
    let is_plain = |c: char| c.is_alphanumeric() || "-_.+:%".contains(c);
    if port.is_some() {
        Err("a profile is for a HOST, without a port".into())
    } else if host.chars().all(is_plain) && !host.starts_with(['-', '.']) {
        Ok(host)
    } else {
        Err("a profile's name has letters, digits and - _ . + : % alone, and begins with no - or ."
            .into())
    }
}

fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_user, host)| host)
}

/// `[user@]HOST:PORT`; an IPv6 address may stand in brackets, as everywhere, and as ssh's `%h` it may do without.
pub(super) fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = without_user(text).rsplit_once(':').ok_or("the form is HOST:PORT")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((parse_host(host)?, parse_port(port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_number_with_or_without_tcp_or_udp() {
        for text in ["22", "tcp/22", "udp/22"] {
            assert_eq!(parse_request(text), Ok(Request(22)));
        }
        for text in
            ["0", "65536", "-1", "ssh", "sctp/22", "tcp/", "udp/", "", "tcp/tcp/22", "tcp/udp/22"]
        {
            assert!(parse_request(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_understood_as_ssh_s_users_write_it() {
        for (text, host, port) in [
            ("host.example", "host.example", None),
            ("host.example:2222", "host.example", Some(2222)),
            ("me@host.example", "host.example", None),
            ("me@corp@host.example:2222", "host.example", Some(2222)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("me@[2001:db8::1]:22", "2001:db8::1", Some(22)),
            ("[fe80::1%eth0]:22", "fe80::1%eth0", Some(22)),
            ("192.0.2.1:22", "192.0.2.1", Some(22)),
        ] {
            let expected = Target { host: host.to_owned(), port };
            assert_eq!(parse_target(text), Ok(expected), "{text}");
        }
        for text in ["host:", "host:0", "host:ssh", "host:65536", "[::1]22", "[::1", "[]:22"] {
            let taken = parse_target(text);
            assert!(taken.is_err(), "{text}: {taken:?}");
        }
    }

    #[test]
    fn a_new_profile_has_a_name_that_is_read_as_that_host_again() {
        for (text, host) in [
            ("server.example", "server.example"),
            ("me@server.example", "server.example"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("b\u{fc}cher.example", "b\u{fc}cher.example"),
        ] {
            assert_eq!(parse_new_host(text).as_deref(), Ok(host));
            assert_eq!(parse_target(host), Ok(Target { host: host.into(), port: None }));
        }
        let wrong =
            ["", ".", "..", ".new", "-x", "a/b", "/etc", "a b", "a\n", "a\u{1b}[2J", "$(x)"];
        for text in wrong.into_iter().chain(["host:22", "[::1]:22", "me@", "a'", "a\\b", "~"]) {
            assert!(parse_new_host(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn host_and_port_part_at_the_last_colon() {
        for (text, host, port) in [
            ("host.example:22", "host.example", 22),
            ("me@host.example:22", "host.example", 22),
            ("[2001:db8::1]:22", "2001:db8::1", 22),
            ("2001:db8::1:22", "2001:db8::1", 22),
        ] {
            assert_eq!(parse_host_port(text), Ok((host.to_owned(), port)));
        }
        for text in ["host", "host:", "host:0", ":22", "a/b:22", "..:22", "host:22x"] {
            assert!(parse_host_port(text).is_err(), "{text:?}");
        }
    }
}
