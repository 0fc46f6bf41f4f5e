//! `knock` as an ordinary user: what it sends, what it spends, what it says when it cannot.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::connection::Reach;
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, Site};
use crate::user::{User, said, wrote};
use crate::wire::Tap;

const PORT: u16 = 2222;
const QUIET: Duration = Duration::from_millis(100);

fn site() -> Site {
    Site::start(Net::lan(), Log::Kmsg, "delay = 600\n")
}

#[test]
fn the_file_capability_is_all_that_a_knock_needs() {
    for family in FAMILIES {
        let mut site = site();
        let _service = site.net.server.echo(PORT);
        let user = User::new(&site, family);
        let output = user.knock(&site.net.client, &["-p", "tcp/2222", HOST], "");
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("sent one SYN"), "{}", said(&output));
        site.wait_for(": opened ");
        assert_eq!(site.reach(family, PORT), Reach::Connected);
    }
}

#[test]
fn the_port_of_the_profile_is_the_default() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    let output = user.knock(&site.net.client, &[HOST], "");
    assert_eq!(output.status.code(), Some(2), "no port anywhere: {}", said(&output));
    assert_eq!(user.counter(), 0);

    user.configure(&format!("port = {PORT}\n"));
    assert!(user.knock(&site.net.client, &[HOST], "").status.success());
    site.wait_for(": opened ");
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
}

#[test]
fn without_the_capability_nothing_is_spent_and_the_line_that_gives_it_is_taught() {
    let site = site();
    let user = User::new(&site, Family::V4);
    let output = user.sh(
        &site.net.client,
        &format!("cp $(command -v knock) $HOME/plain && exec $HOME/plain -p 22 {HOST}"),
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("sudo setcap cap_net_raw+ep "), "{}", said(&output));
    assert_eq!(user.counter(), 0);
}

#[test]
fn a_dry_run_shows_a_knock_that_the_server_would_accept_and_sends_nothing() {
    use knockknock::layout::Request;
    use knockknock::layout::classic;
    use knockknock::profile::Profile;

    for family in FAMILIES {
        let site = site();
        let user = User::new(&site, family);
        let mut tap = Tap::on(&site.net.server);
        let output = user.knock(&site.net.client, &["-n", "-p", "22", HOST], "");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(user.counter(), 0, "a dry run spends no counter");
        assert_eq!(tap.syns_to(KNOCK_PORT, QUIET).len(), 0, "a dry run sends nothing");

        let text = wrote(&output);
        let line = text.lines().find(|line| line.contains("PROTO=TCP")).expect("the log line");
        let line = format!("4,1,1,-;{}", line.trim_start());
        let syn = knockknock::daemon::kernel_log_line::parse(
            line.as_bytes(),
            knockknock::daemon::kernel_log_line::Framing::Kmsg,
            b"",
        )
        .expect("a line that the daemon reads");
        assert_eq!(syn.source, site.net.client.address(family));
        assert_eq!(syn.destination_port, KNOCK_PORT);
        let (profile, _) = Profile::load(&site.profile("client")).unwrap();
        assert_eq!(
            classic::open(profile.keys.classic().unwrap(), 0, 1, &syn.fields),
            Ok((Request(22), 0))
        );
    }
}

#[test]
fn each_family_of_a_name_gets_one_knock_and_source_chooses_the_address() {
    let site = site();
    let server = &site.net.server;
    // One name with both addresses, in a hosts file that only this command sees.
    let user = User::with_address(&site, "both.test");
    let hosts =
        user.write("hosts", &format!("{} both.test\n{} both.test\n", server.ipv6, server.ipv4));
    let knock = |arguments: &[&str]| {
        let mut tap = Tap::on(server);
        let output = user.with_hosts(&site, &hosts, &[arguments, &["-p", "22", HOST]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let syns = tap.syns_to(KNOCK_PORT, QUIET);
        syns.iter().map(|syn| syn.source).collect::<Vec<_>>()
    };
    let (v4, v6) = (site.net.client.address(Family::V4), site.net.client.address(Family::V6));
    for both in [&[][..], &["-4", "-6"]] {
        let mut both = knock(both);
        both.sort_unstable();
        assert_eq!(both, [v4, v6]);
    }
    assert_eq!(user.counter(), 4, "a counter for each");
    assert_eq!(knock(&["-4"]), [v4]);
    assert_eq!(knock(&["-6"]), [v6]);
    assert_eq!(knock(&["--source", &v4.to_string()]), [v4]);

    site.net.client.run(&["ip", "addr", "add", "10.66.1.77/16", "dev", "eth0"]);
    assert_eq!(
        knock(&["--source", "10.66.1.77"]),
        ["10.66.1.77".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn a_server_that_knows_ipv4_alone_works_behind_a_name_with_both() {
    // As the original: no IPv6 knock is ever heard.
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\nipv6 = false\n");
    let service = site.net.server.echo(PORT);
    let user = User::with_address(&site, "both.test");
    let (v6, v4) = (site.net.server.ipv6, site.net.server.ipv4);
    let hosts = user.write("hosts", &format!("{v6} both.test\n{v4} both.test\n"));
    let output = user.with_hosts(&site, &hosts, &["-p", "2222", HOST]);
    assert!(output.status.success(), "{}", said(&output));
    for address in [v6.to_string(), v4.to_string()] {
        assert!(said(&output).contains(&format!("SYN to {address} port")), "{}", said(&output));
    }
    site.wait_for(&format!(": opened tcp/2222 to {} ", site.net.client.ipv4));
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    wait_until(SOON, "the connection", || service.accepted() == 1);
}

#[test]
fn a_family_without_a_way_is_passed_over_and_verbose_says_so() {
    let site = site();
    let user = User::with_address(&site, "both.test");
    let hosts = user
        .write("hosts", &format!("2001:db8::1 both.test\n{} both.test\n", site.net.server.ipv4));
    let mut tap = Tap::on(&site.net.server);
    let output = user.with_hosts(&site, &hosts, &["-p", "2222", HOST]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("2001:db8::1"), "{}", said(&output));
    assert_eq!(tap.syns_to(KNOCK_PORT, QUIET).len(), 1);
    let output = user.with_hosts(&site, &hosts, &["-v", "-p", "2222", HOST]);
    assert!(said(&output).contains("no route to 2001:db8::1"), "{}", said(&output));
    // One that our own firewall shuts costs a counter, and is told of; the other is enough.
    let hosts = user.write(
        "hosts",
        &format!("{} both.test\n{} both.test\n", site.net.server.ipv6, site.net.server.ipv4),
    );
    site.net.client.nft(
        "table inet shut { chain out { type filter hook output priority 0; meta nfproto ipv6 meta l4proto tcp drop; }; }",
    );
    let output = user.with_hosts(&site, &hosts, &["-p", "2222", HOST]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("did not leave this machine"), "{}", said(&output));
    assert_eq!(user.counter(), 4);
}

#[test]
fn a_link_local_address_is_knocked_at_on_its_interface() {
    let mut site = site();
    let listed =
        site.net.server.run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]);
    let address = listed.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
    let user = User::with_address(&site, &format!("{address}%eth0"));
    let _service = site.net.server.echo(PORT);
    let output = user.knock(&site.net.client, &["-W", &format!("{HOST}:{PORT}")], "ping");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(wrote(&output), "ping");
    site.wait_for(": opened ");
}

#[test]
fn a_name_in_another_script_is_resolved() {
    let site = site();
    let user = User::with_address(&site, "bücher.test");
    let hosts = user.write("hosts", &format!("{} xn--bcher-kva.test\n", site.net.server.ipv4));
    let mut tap = Tap::on(&site.net.server);
    let output = user.with_hosts(&site, &hosts, &["-p", "22", HOST]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(tap.syns_to(KNOCK_PORT, QUIET).len(), 1);
}

#[test]
fn where_there_is_no_way_or_no_room_nothing_is_sent() {
    let site = site();
    let mut tap = Tap::on(&site.net.server);
    let user = User::with_address(&site, "203.0.113.7");
    let output = user.knock(&site.net.client, &["-p", "22", HOST], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no route to 203.0.113.7"), "{}", said(&output));
    assert_eq!(user.counter(), 0);

    let user = User::new(&site, Family::V4);
    // A read-only profile: a mount that only this command sees.
    let profile = user.profile();
    let line = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec setpriv --reuid=65534 --regid=65534 \
         --clear-groups env HOME={1} {2} -p 22 {HOST}",
        profile.display(),
        profile.parent().unwrap().parent().unwrap().display(),
        site.net.path("user-bin").join("knock").display(),
    );
    let output = site.net.client.command("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("counter") && said(&output).contains("Read-only"),
        "{}",
        said(&output)
    );
    assert_eq!(user.counter(), 0);
    assert_eq!(tap.syns_to(KNOCK_PORT, QUIET).len(), 0);
}

#[test]
fn while_the_resolver_works_no_capability_is_held() {
    let site = site();
    let user = User::with_address(&site, "slow.test");
    // The resolver reads this file, and nobody ever writes to it.
    let hosts = user.write("hosts", "");
    fs::remove_file(&hosts).unwrap();
    let made = Command::new("mkfifo").args(["-m", "644"]).arg(&hosts).status().unwrap();
    assert!(made.success());
    for arguments in [
        &["-p", "22", HOST][..],
        &["-p", "22", HOST, "--", "true"],
        &["-n", "-p", "22", HOST],
        &["-W", "server.test:22"],
    ] {
        let mut knock = user.with_hosts_command(&site, &hosts, arguments).spawn().unwrap();
        let read = || fs::read_to_string(format!("/proc/{}/status", knock.id())).unwrap();
        wait_until(SOON, "the resolver to sleep over the file", || {
            let status = read();
            status.starts_with("Name:\tknock\n") && status.contains("State:\tS")
        });
        let status = read();
        knock.kill().unwrap();
        knock.wait().unwrap();
        for set in ["CapPrm", "CapEff"] {
            assert!(
                status.contains(&format!("{set}:\t0000000000000000")),
                "{arguments:?} {status}"
            );
        }
    }
    assert_eq!(user.counter(), 0);
}

#[test]
fn a_command_runs_after_the_knock_and_its_exit_code_is_ours() {
    let mut site = site();
    let service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    let address = site.net.server.ipv4;
    let line = format!("knock -p {PORT} {HOST} -- sh -c 'echo | nc -N {address} {PORT}; exit 7'");
    let output = user.sh(&site.net.client, &line);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert_eq!(service.accepted(), 1, "the command got in: {}", said(&output));
    site.wait_for(": opened ");
    let output = user.sh(&site.net.client, &format!("knock -p 22 {HOST} -- no-such-program"));
    assert_eq!(output.status.code(), Some(127), "{}", said(&output));
    let counter = user.counter();
    let output = user.sh(&site.net.client, "knock -p 22 nobody-s-profile -- touch $HOME/ran");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(user.counter(), counter);
    let ran = user.profile().parent().unwrap().parent().unwrap().join("ran");
    assert!(!ran.exists(), "no command without a knock");
}

#[test]
fn two_hundred_knocks_from_twenty_processes_killed_at_random_use_no_counter_twice() {
    const KNOCKS: u32 = 200;
    let mut site = site();
    let user = User::new(&site, Family::V4);
    // Read while they come: the tap's buffer is too small for all of them.
    let mut tap = Tap::on(&site.net.server);
    let tapped = std::thread::spawn(move || tap.syns_to(KNOCK_PORT, Duration::from_secs(3)));
    let mut random = 88_172_645_463_325_252_u64;
    std::thread::scope(|scope| {
        for _ in 0..20 {
            // xorshift: where a kill falls is to differ, not to be unpredictable.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (mut random, user, client) = (random, &user, &site.net.client);
            scope.spawn(move || {
                for _ in 0..KNOCKS / 20 {
                    let mut knock = user.command(client, "knock");
                    knock.args(["-p", "2222", HOST]).stderr(std::process::Stdio::null());
                    let mut knock = knock.spawn().unwrap();
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    // Half of them live; the others are killed somewhere along their way of some 10 ms.
                    if random % 2 == 0 {
                        std::thread::sleep(Duration::from_micros(random / 2 % 20_000));
                        let _ = knock.kill();
                    }
                    knock.wait().unwrap();
                }
            });
        }
    });
    let on_the_wire = tapped.join().unwrap();
    let mut knocks: Vec<u32> = on_the_wire.iter().map(|syn| syn.sequence).collect();
    let sent = knocks.len();
    knocks.sort_unstable();
    knocks.dedup();
    assert_eq!(knocks.len(), sent, "no counter seen twice on the wire");
    let used = user.counter();
    eprintln!("{KNOCKS} started, {used} counters used, {sent} SYNs on the wire");
    assert!(used >= u32::try_from(sent).unwrap() && used <= KNOCKS);
    assert!(sent >= 50, "half of them were left alone");
    wait_until(SOON, "every knock that was seen is accepted", || {
        fs::read_to_string(site.profile("client").join("counter")).is_ok() && site.opened() == sent
    });
    // The server stands behind the last knock that it saw; counters used after that were never sent.
    let server: u32 = site.counters("client")[0].parse().unwrap();
    assert!(server <= used && used - server <= used - u32::try_from(sent).unwrap());
    // And the two still agree: the next knock gets in.
    let before = site.opened();
    assert!(user.knock(&site.net.client, &["-p", "2222", HOST], "").status.success());
    wait_until(SOON, "one more", || site.opened() == before + 1);
    let server: u32 = site.counters("client")[0].parse().unwrap();
    assert_eq!(server, user.counter());
}
