//! The server's `config`. Root wrote it, and root acts on it.

use knockknock::daemon::config::{Config, FirewallKind};
use knockknock::grant::{Protocol, Service};

use super::{can_be_shown, ini};

/// The bytes as a `config`.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let config = match Config::parse(bytes) {
        Ok(config) => config,
        Err(why) => {
            can_be_shown(&why);
            names_a_line_of_the_file(bytes, &why);
            return false;
        }
    };
    is_within_bounds(&config);
    if let Some(allow) = &config.allow {
        allow.iter().copied().for_each(is_a_service);
    }
    let again = written(&config);
    assert_eq!(Config::parse(again.as_bytes()).as_ref(), Ok(&config), "{again}");
    let refused = Config::parse(ini::with_unknown_key(&again).as_bytes()).unwrap_err();
    assert!(refused.contains("did you mean `allow`?"), "{refused}");
    true
}

fn names_a_line_of_the_file(bytes: &[u8], why: &str) {
    let Some((number, _)) = why.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) else {
        return;
    };
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&number.parse().unwrap()), "{why} of {lines} lines");
}

fn is_within_bounds(config: &Config) {
    let Config { delay, error_window, max_open, max_open_per_source, log_prefix, allow, .. } =
        config;
    assert!(*delay >= 1 && *delay <= 43_200);
    assert!(*error_window >= 1 && *error_window <= 10_000);
    assert!(*max_open >= 1 && *max_open <= 65_536);
    assert!(*max_open_per_source >= 1 && max_open_per_source <= max_open);
    assert!(log_prefix.len() <= 127);
    assert!(!log_prefix.contains(|c: char| c.is_control()));
    assert!(!allow.as_ref().is_some_and(Vec::is_empty));
}

fn is_a_service(service: Service) {
    assert!(service.first_port >= 1 && service.first_port <= service.last_port);
    assert_eq!(service.to_string().parse(), Ok(service));
    for port in [0, service.first_port - 1, service.first_port, service.last_port] {
        let inside = port != service.first_port - 1 && port != 0;
        assert_eq!(service.contains(service.protocol, port), inside);
    }
    let other = if service.protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
    assert!(!service.contains(other, service.first_port));
}

fn written(config: &Config) -> String {
    let services = |allow: &Vec<Service>| ini::list(allow.iter().map(ToString::to_string));
    let firewall = match config.firewall {
        FirewallKind::Auto => "auto",
        FirewallKind::Conntrack => "conntrack",
        FirewallKind::Nftables => "nftables",
    };
    ini::file(&[
        ("delay", Some(config.delay.to_string())),
        ("error_window", Some(config.error_window.to_string())),
        ("log_prefix", Some(ini::string(&config.log_prefix))),
        ("log", Some(ini::string(&config.log))),
        ("firewall", Some(firewall.to_owned())),
        ("user", config.user.as_deref().map(ini::string)),
        ("allow", config.allow.as_ref().map(services)),
        ("ipv4", Some(config.ipv4.to_string())),
        ("ipv6", Some(config.ipv6.to_string())),
        ("max_open", Some(config.max_open.to_string())),
        ("max_open_per_source", Some(config.max_open_per_source.to_string())),
    ])
}
