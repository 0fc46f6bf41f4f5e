//! `knock -W` to a host without a profile: a plain connection, so that it can stand under `Host *`. Also what of ssh's
//! ways to write a host `knock` understands, and what it says when it cannot go on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::connection::Reach;
use crate::net::{FAMILIES, Family, Net};
use crate::site::{HOST, KNOCK_PORT, Log, Site};
use crate::user::{OPEN_PORT, Sshd, User, said, wrote};
use crate::wire::Tap;

const PORT: u16 = 2222;

fn site() -> Site {
    Site::start(Net::lan(), Log::Kmsg, "delay = 15\n")
}

#[test]
fn a_host_without_a_profile_is_connected_to_plainly_and_without_a_capability() {
    let site = site();
    let _service = site.net.other.echo(PORT);
    let user = User::new(&site, Family::V4);
    user.without_capability();
    let client = &site.net.client;
    for family in FAMILIES {
        let host = site.net.other.address(family);
        let target = format!("me@[{host}]:{PORT}");
        let mut tap = Tap::on(client);
        let output = user.knock(client, &["-W", &target], "ping");
        assert_eq!((wrote(&output), said(&output)), ("ping".to_owned(), String::new()));
        let output = user.knock(client, &["-v", "-W", &target], "ping");
        assert!(output.status.success() && said(&output).contains("no profile"), "{output:?}");
        assert!(tap.syns_to(KNOCK_PORT, Duration::from_millis(500)).is_empty());

        // A knock itself is still refused, and one with a profile says what it takes.
        let output = user.knock(client, &["-p", "22", &host.to_string()], "");
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("no profile"), "{}", said(&output));
    }
    let output = user.knock(client, &["-W", &format!("{HOST}:{PORT}")], "");
    assert!(said(&output).contains("setcap cap_net_raw+ep"), "{}", said(&output));
    assert_eq!(user.counter(), 0);
}

#[test]
fn ssh_gets_through_one_proxycommand_to_hosts_with_and_without_a_profile() {
    let mut site = site();
    // Two names for the server: the profile's own, and its IPv4 address, which is not the profile's.
    let user = User::new(&site, Family::V6);
    let sshd = Sshd::start(&site, &user, Family::V4);
    site.minimal_firewall(&["--allow", &format!("tcp/{OPEN_PORT}")]);
    for (host, counter) in [("plain", 0), (HOST, 1)] {
        let mut command = user.command(&site.net.client, "ssh");
        let output = command
            .arg("-F")
            .arg(&sshd.config)
            .args(["-o", "ProxyCommand=knock -W %h:%p", host, "echo in"])
            .output()
            .unwrap();
        assert_eq!(wrote(&output), "in\n", "{host}: {}", said(&output));
        assert_eq!(user.counter(), counter, "{host}");
    }
    assert_eq!(site.opened(), 1);
}

#[test]
fn an_address_that_swallows_everything_does_not_keep_the_next_from_being_tried() {
    let site = site();
    let service = site.net.other.echo(PORT);
    site.net.other.nft(
        "table inet hole { chain in { type filter hook prerouting priority raw; meta nfproto ipv6 meta l4proto tcp drop; }; }",
    );
    let user = User::new(&site, Family::V4);
    let (v6, v4) = (site.net.other.ipv6, site.net.other.ipv4);
    let hosts = user.write("hosts", &format!("{v6} both.test\n{v4} both.test\n"));
    let output = user.with_hosts(&site, &hosts, &["-v", "-W", &format!("both.test:{PORT}")]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("connected to {v4}:{PORT}")), "{}", said(&output));
    assert_eq!(service.accepted(), 1);
}

#[test]
fn what_failed_is_said_and_which_profile_was_probably_meant() {
    let site = site();
    let user = User::new(&site, Family::V4);
    let client = &site.net.client;
    let other = site.net.other.ipv4;
    for (arguments, wanted) in [
        (
            &["-W", &format!("{other}:{PORT}")][..],
            vec![format!("({other}:{PORT}: Connection refused)")],
        ),
        (
            &["-W", "sevrer.test:22"],
            vec!["no address for this name".into(), format!("did you mean {HOST:?}?")],
        ),
        (&["-p", "22", "sevrer.test"], vec![format!("did you mean {HOST:?}?")]),
        (&["-p", "22", "server"], vec![format!("did you mean {HOST:?}?")]),
        (
            &["-p", "22", "elsewhere.org"],
            vec![format!("there are {HOST:?}"), "knock-genprofile".into()],
        ),
    ] {
        let output = user.knock(client, arguments, "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = said(&output);
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{wanted:?} in {said}");
        assert_eq!(said.lines().count(), 2, "what is wrong, and a hint: {said}");
    }
}

#[test]
fn profiles_that_may_not_be_read_are_not_taken_for_none() {
    let site = site();
    let _service = site.net.other.echo(PORT);
    let user = User::new(&site, Family::V4);
    let client = &site.net.client;
    let profiles = user.profile().parent().unwrap().to_owned();
    fs::set_permissions(&profiles, fs::Permissions::from_mode(0o000)).unwrap();
    for arguments in
        [&["-p", "22", HOST][..], &["-W", &format!("{}:{PORT}", site.net.other.ipv4)], &["--list"]]
    {
        let output = user.knock(client, arguments, "ping");
        assert_eq!((output.status.code(), wrote(&output)), (Some(1), String::new()));
        let said = said(&output);
        assert!(said.contains(&format!("{profiles:?}")), "{said}");
        assert!(said.contains("Permission denied") && !said.contains("none yet"), "{said}");
    }
}

#[test]
fn hosts_are_understood_as_ssh_s_users_write_them_and_quiet_is_quiet() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    let target = format!("me@{HOST}:{PORT}");
    for (count, arguments) in
        [&["-q", &target][..], &["-q", "--port", "2222", &target]].iter().enumerate()
    {
        let output = user.knock(&site.net.client, arguments, "");
        assert!(output.status.success());
        assert_eq!(wrote(&output) + &said(&output), "");
        crate::process::wait_until(crate::process::SOON, "a grant", || site.opened() == count + 1);
        assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    }
    // Two ports for one host: nothing is sent.
    let output = user.knock(&site.net.client, &["-p", "22", &target], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("use one"), "{}", said(&output));
    assert_eq!(user.counter(), 2);
}
