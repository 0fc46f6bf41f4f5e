//! The forms that a `config` has had: as the original's Python 2 read it, as people with Python 3 habits write it, as
//! ours was written before. What is good means the same to us; what is wrong is refused by its line and name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops")]

use std::path::Path;

use knockknock::daemon::config::{Config, FirewallKind};
use knockknock::profile::config::ProfileConfig;

fn profile(text: &[u8]) -> Result<ProfileConfig, String> {
    ProfileConfig::parse(text, Path::new("/p/config")).map_err(|error| error.to_string())
}

/// Each file says knock port 666 and nothing else.
const KNOCK_PORT_666: &[&[u8]] = &[
    // As knock-genprofile of the original writes it.
    b"[main]\nknock_port = 666\n\n",
    // Both delimiters, blanks or none around them.
    b"[main]\nknock_port=666\n",
    b"[main]\nknock_port: 666\n",
    b"[main]\nknock_port:666",
    b"[main]\nknock_port : 666\n",
    b"[main]\nknock_port\t=\t666\t\n",
    b"[main]\nknock_port =666   \n",
    // Keys in any case.
    b"[main]\nKnock_Port = 666\n",
    b"[main]\nKNOCK_PORT=666\n",
    // Comments: on lines of their own, behind a value, Python 2's `rem`.
    b"; made by hand\n[main]\n;knock_port = 1\nknock_port = 666\n",
    b"# made by hand\n[main]\n#knock_port = 1\nknock_port = 666\n",
    b"[main]\n   # indented\nknock_port = 666\n   ; indented, and no continuation\n",
    b"[main]\nknock_port = 666 ; the port\n",
    b"[main]\nknock_port = 666\t;the port; of the beast\n",
    b"[main]\nknock_port = 666 # the port\n",
    b"[main]\nrem knock_port = 1\nREM\nRem it's mine\nknock_port = 666\n",
    b"[main] ; the only one\nknock_port = 666\n",
    b"[main] # the only one\nknock_port = 666\n",
    b"# it's \"mine\n[main]\nknock_port = 666\n",
    // Comments in Latin-1.
    b"; Schl\xfcssel f\xfcr J\xf6rg\n[main]\nknock_port = 666\n",
    b"[main]\nknock_port = 666 ; T\xfcr\n",
    // Line ends and marks of other systems.
    b"[main]\r\nknock_port = 666\r\n\r\n",
    b"[main]\r\nknock_port = 666\r",
    b"\xef\xbb\xbf[main]\nknock_port = 666\n",
    b"\n\n  \n[main]\n\n\nknock_port = 666\n\n",
    // What `int` takes.
    b"[main]\nknock_port = 0666\n",
    b"[main]\nknock_port = +666\n",
    b"[main]\nknock_port = 0000000000000000000000666\n",
    b"[main]\nknock_port = 6_66\n",
    // A value on the next line.
    b"[main]\nknock_port =\n    666\n",
    b"[main]\nknock_port:\n\n\t666\n",
    // All lines indented alike continue nothing.
    b"[main]\n  knock_port = 1\n  knock_port = 666\n",
    // Defaults, before or after, and overridden.
    b"[DEFAULT]\nknock_port = 666\n[main]\n",
    b"[main]\n[DEFAULT]\nknock_port = 666\n",
    b"[DEFAULT]\nknock_port = 1\n[main]\nknock_port = 666\n",
    b"[main]\nknock_port = 666\n[DEFAULT]\nknock_port = 1\n",
    // The last one counts, in sections of one name too.
    b"[main]\nknock_port = 1\nknock_port = 666\n",
    b"[main]\nknock_port = 1\n[main]\nKNOCK_PORT = 666\n",
    // What TOML took.
    b"[ main ]\nknock_port = 666\n",
];

#[test]
fn the_forms_of_a_profiles_config_all_say_the_same() {
    for text in KNOCK_PORT_666 {
        let shown = text.escape_ascii();
        let config = profile(text).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(config, profile(b"[main]\nknock_port = 666\n").unwrap(), "{shown}");
        assert_eq!(config.knock_port, Some(666), "{shown}");
    }
}

/// `allow = tcp/22, tcp/8000-8010` in every way.
const LISTS: &[&str] = &[
    "tcp/22, tcp/8000-8010",
    "tcp/22,tcp/8000-8010",
    "tcp/22 ,tcp/8000-8010, ; and no more",
    "[\"tcp/22\", \"tcp/8000-8010\"]",
    "['tcp/22', \"tcp/8000-8010\",]  # both",
    "[tcp/22, tcp/8000-8010]",
    "\"tcp/22\", \"tcp/8000-8010\"",
    "\"tcp/22, tcp/8000-8010\"",
    "\n  tcp/22 ; ssh\n  tcp/8000-8010",
    "tcp/22,\n  ; the others:\n  tcp/8000-8010",
    "[\n  \"tcp/22\", # ssh\n  \"tcp/8000-8010\",\n]",
    "[ # these\n\"tcp/22\",\n\"tcp/8000-8010\" ]",
    "[\"tcp/22\",\n       \"tcp/8000-8010\"]",
];

#[test]
fn a_list_is_by_commas_or_lines_and_in_brackets_and_quotes_or_not() {
    for list in LISTS {
        let text = format!("[main]\nknock_port = 666\nallow = {list}\nport = 22\n");
        let config = profile(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(config.allow.unwrap(), ["tcp/22", "tcp/8000-8010"], "{text}");
        assert_eq!(config.port, Some(22), "{text}");
        let text = format!("[main]\nAllow: {list}\ndelay = 30\n");
        let config =
            Config::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let services: Vec<_> = config.allow.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!((services.join(" ").as_str(), config.delay), ("tcp/22 tcp/8000-8010", 30));
    }
}

#[test]
fn a_text_is_in_quotes_or_not() {
    for (value, expected) in [
        ("REJECT", "REJECT"),
        ("  REJECT  ", "REJECT"),
        ("\"REJECT \"", "REJECT "),
        ("'REJECT '", "REJECT "),
        ("\"REJECT \" # with a blank", "REJECT "),
        ("\"REJECT \"# with a blank", "REJECT "),
        ("\"KNOCK ; #1 \" ; as ours logs it", "KNOCK ; #1 "),
        ("KNOCK#1;2", "KNOCK#1;2"),
        ("[UFW BLOCK]", "[UFW BLOCK]"),
        ("\"[UFW BLOCK] \"", "[UFW BLOCK] "),
        ("100%% %(yes)s", "100%% %(yes)s"),
        ("a=b: c", "a=b: c"),
        ("\"say \\\"\\\\\\\" \"", "say \"\\\" "),
        ("it's", "it's"),
        ("Tür", "Tür"),
        ("\"\"", ""),
        ("''", ""),
        ("", ""),
        ("; nothing", ""),
    ] {
        let text = format!("[main]\nlog_prefix = {value}\nlog = kmsg\n");
        let config =
            Config::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((config.log_prefix.as_str(), config.log.as_str()), (expected, "kmsg"), "{text}");
    }
}

#[test]
fn yes_and_no_are_said_in_each_of_pythons_ways() {
    for (words, expected) in
        [(["true", "True", "YES", "on", "1"], true), (["false", "FALSE", "no", "Off", "0"], false)]
    {
        for word in words {
            let text = format!("[main]\nipv6 = {word} ; so\n");
            assert_eq!(Config::parse(text.as_bytes()).unwrap().ipv6, expected, "{text}");
        }
    }
}

#[test]
fn a_servers_config_is_read_as_the_original_and_with_everything_of_ours() {
    for text in [
        "",
        "\n",
        "# nothing\n",
        "; nothing",
        "[main]\n",
        "[DEFAULT]\n",
        "[main]\ndelay=15\nerror_window=20\n",
    ] {
        assert_eq!(Config::parse(text.as_bytes()).unwrap(), Config::default(), "{text:?}");
    }
    let all = b"[DEFAULT]\nDelay: 030 ; s\n[main]\nerror_window = 50\nlog = /var/log/kern.log\nfirewall = nftables\n\
        user = \"nobody\"\nipv4 = no\nmax_open = 10\nmax_open_per_source = 10\n";
    let config = Config::parse(all).unwrap();
    let expected = Config {
        delay: 30,
        error_window: 50,
        log: "/var/log/kern.log".into(),
        firewall: FirewallKind::Nftables,
        user: Some("nobody".into()),
        ipv4: false,
        max_open: 10,
        max_open_per_source: 10,
        max_open_per_profile: 10,
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn what_is_wrong_in_a_profiles_config_is_named() {
    for (text, parts) in [
        ("", &["knock_port is missing"][..]),
        ("[main]\n", &["knock_port is missing"]),
        ("knock_port = 666\n", &["line 1", "no section is above it\nfix: write [main]"]),
        ("[DEFAULT]\nknock_port = 666\n", &["there is no [main]"]),
        (
            "[mian]\nknock_port = 666\n",
            &["line 1", "no section [mian]", "\nfix: did you mean [main]?"],
        ),
        ("[main]\nknock_port = 666\n[server]\nallow = tcp/22\n", &["line 3", "[server]"]),
        ("[main]\nknock_port = 666\n[main.client]\n", &["line 3", "\nfix: did you mean [main]?"]),
        ("[main]\nknock_port = 666\n[defaults]\n", &["line 3", "\nfix: did you mean [DEFAULT]?"]),
        ("[main\nknock_port = 666\n", &["line 1", "neither [section] nor key = value"]),
        ("[main] knock_port = 666\n", &["line 1", "stands behind a section"]),
        ("[main]\n= 666\n", &["line 2", "neither [section] nor key = value"]),
        ("[main]\nknock_port\n", &["line 2", "knock_port: there is no value"]),
        (
            "[main]\nknock_port 666\n",
            &["line 2", "knock_port 666", "\nfix: did you mean `knock_port`?"],
        ),
        (
            "[main]\n\nknok_port = 666\n",
            &["line 3", "\"knok_port\"", "\nfix: did you mean `knock_port`?"],
        ),
        (
            "[main]\nknock_port = 1\nalow = tcp/22\n",
            &["line 3", "\"alow\"", "\nfix: did you mean `allow`?"],
        ),
        ("[main]\nknock_port = 1\nAllows: tcp/22\n", &["line 3", "\nfix: did you mean `allow`?"]),
        (
            "[DEFAULT]\nalow=tcp/22\n[main]\nknock_port=1\n",
            &["line 2", "\nfix: did you mean `allow`?"],
        ),
        (
            "[main]\nknock_port = 1\nzzz = 1\n",
            &["line 3", "\"zzz\"", "\nfix: use one of knock_port, layout"],
        ),
        ("[main]\nknock_port =\n", &["line 2", "knock_port is \"\"", "1 to 65535"]),
        ("[main]\nknock_port = 0\n", &["line 2", "knock_port is 0; it may be 1 to 65535"]),
        ("[main]\nknock_port = 65536\n", &["line 2", "knock_port is 65536;"]),
        ("[main]\nknock_port = -1\n", &["line 2", "knock_port is -1;"]),
        ("[main]\nknock_port = 99999999999999999999999\n", &["line 2", "99999999999999999999999;"]),
        ("[main]\nknock_port = 0x29a\n", &["line 2", "\"0x29a\"", "no whole number"]),
        ("[main]\nknock_port = 6_\n", &["line 2", "no whole number"]),
        ("[main]\nknock_port = \"666\"\n", &["line 2", "no whole number"]),
        ("[main]\nknock_port = 6.66\n", &["line 2", "no whole number"]),
        ("[main]\nknock_port = 666\n  port = 22\n", &["line 2", "no whole number"]),
        ("[main]\nknock_port = 1\nport = 0\n", &["line 3", "port is 0"]),
        ("[main]\nknock_port = 1\nlayout = other\n", &["line 3", "\"other\"", "classic"]),
        ("[main]\nknock_port = 1\naddress =\n", &["line 3", "address: it is empty"]),
        ("[main]\nknock_port = 1\naddress = \"a\n", &["line 3", "quotes do not match"]),
        ("[main]\nknock_port = 1\naddress = \"a\\n\"\n", &["line 3", "quotes do not match"]),
        ("[main]\nknock_port = 1\naddress = a\n  b\n", &["line 3", "one line of printable"]),
        ("[main]\nknock_port = 1\nallow =\n", &["line 3", "allow: it names nothing"]),
        ("[main]\nknock_port = 1\nallow = []\n", &["line 3", "allow: it names nothing"]),
        ("[main]\nallow = [\"tcp/22\"\nknock_port = 1\n", &["line 2", "no ] at its end"]),
        ("[main]\nknock_port = 1\n# x\rallow = tcp/22\n", &["line 3", "carriage return"]),
        ("\u{0}", &["line 1", "no section is above it"]),
    ] {
        let error =
            profile(text.as_bytes()).map(|config| panic!("{text:?}: {config:?}")).unwrap_err();
        for part in parts.iter().chain(&["/p/config"]) {
            assert!(error.contains(part), "{text:?}: {part:?} is not in {error}");
        }
    }
    for text in [
        &b"[main]\nknock_port = 1\naddress = h\xf6st\n"[..],
        b"[main]\nknock_port = 1\nh\xf6st = 1\n",
    ] {
        let error = profile(text).unwrap_err();
        assert!(error.contains("line 3: not text (UTF-8)"), "{error}");
    }
}

#[test]
fn what_is_wrong_in_a_servers_config_is_named() {
    for (text, parts) in [
        ("[main]\nerror_widow = 20\n", &["line 2", "\nfix: did you mean `error_window`?"][..]),
        ("[main]\nallow_ = tcp/22\n", &["line 2", "\nfix: did you mean `allow`?"]),
        ("[mian]\n", &["line 1", "\nfix: did you mean [main]?"]),
        ("[main]\n\ndelay = 0\n", &["line 3", "delay is 0; it may be 1 to 43200"]),
        ("[main]\ndelay = 50000\n", &["line 2", "delay is 50000"]),
        ("[main]\ndelay = fifteen\n", &["line 2", "delay is \"fifteen\""]),
        ("[main]\nerror_window = 0\n", &["line 2", "error_window is 0; it may be 1 to 1000"]),
        ("[main]\nmax_open = 10\nmax_open_per_source = 11\n", &["line 3", "it may be 1 to 10"]),
        ("[main]\nallow =\n", &["line 2", "allow: it names nothing"]),
        ("[main]\nallow = []\n", &["line 2", "allow: it names nothing"]),
        ("[main]\nallow = tcp/22 tcp/23\n", &["line 2", "\"tcp/22 tcp/23\" is not a service"]),
        ("[main]\nallow = tcp/22, ssh\n", &["line 2", "\"ssh\" is not a service"]),
        ("[main]\nfirewall = \"pf\"\n", &["line 2", "\"pf\"", "conntrack or nftables"]),
        ("[main]\nuser = \n", &["line 2", "user: it is empty"]),
        ("[main]\nipv6 = maybe\n", &["line 2", "ipv6 is \"maybe\""]),
        ("[main]\nlog_prefix = a\tb\n", &["line 2", "one line of printable"]),
    ] {
        let error = Config::parse(text.as_bytes()).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{text:?}: {part:?} is not in {error}");
        }
    }
    let long = format!("[main]\nlog_prefix = {}\n", "x".repeat(128));
    assert!(Config::parse(long.as_bytes()).unwrap_err().contains("127 bytes"));
}
