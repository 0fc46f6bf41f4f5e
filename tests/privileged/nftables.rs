//! What the nftables back end does to packets.

use crate::net::{CLIENT, FOREIGN, Namespace, Net, SERVER, until};

const TABLE: &str = "knockknock";
/// The same, and the back end.
const NFTABLES: &str = "nftables:knockknock";

#[test]
fn a_grant_is_in_the_set_and_the_kernel_takes_it_out_at_its_time() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(NFTABLES);
    assert_eq!(server.grants(TABLE), []);
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert_eq!(daemon.open(address, 22, 1), "Ok(Opened)");
        let grants = server.grants(TABLE);
        assert_eq!((grants[0].0.as_str(), grants[0].1), (address, 22));
        until(2, "the grant ends one second after", || server.grants(TABLE).is_empty());
    }
}

/// `nft` reads the rules back as they were meant.
#[test]
fn the_table_lists_as_it_is_documented() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(NFTABLES);
    assert_eq!(daemon.open("192.0.2.7", 22, 600), "Ok(Opened)");
    let listed = server.run(&["nft", "-nn", "list", "table", "inet", TABLE]);
    let lines: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // What is logged stands in log_rules.rs.
    let from = |what: &str| lines.iter().position(|line| line.starts_with(what)).unwrap();
    let sets = &lines[from("set open4")..from("chain knocks")];
    let lines: Vec<&str> = [&lines[..2], sets, &lines[from("chain admit")..]].concat();
    let element =
        "elements = { 192.0.2.7 . 6 . 22 limit rate 1/day burst 1 packets timeout 600s expires ";
    assert!(lines[6].starts_with(element), "{listed}");
    let rest: Vec<&str> = lines[1..6].iter().chain(&lines[7..]).copied().collect();
    let add = |what: &str| format!("{what} mark set {what} mark | 0x20000000");
    let admit = format!("{} {} accept", add("ct"), add("meta"));
    assert_eq!(
        rest,
        [
            "flags owner",
            "set open4 {",
            "type ipv4_addr . inet_proto . inet_service",
            "size 28",
            "flags dynamic,timeout",
            "}",
            "set open6 {",
            "type ipv6_addr . inet_proto . inet_service",
            "size 28",
            "flags dynamic,timeout",
            "}",
            "chain admit {",
            "type filter hook input priority -10; policy accept;",
            "ct state ! 0x8 accept",
            "tcp flags != 0x2 / 0x1,0x2,0x4,0x10 accept",
            &format!("ct mark & 0x20000000 == 0x20000000 {} accept", add("meta")),
            &format!("ip saddr . meta l4proto . th dport @open4 {admit}"),
            &format!("ip6 saddr . meta l4proto . th dport @open6 {admit}"),
            "}",
            "}",
        ]
    );
}

#[test]
fn opening_again_renews_the_time_and_never_doubles() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(NFTABLES);
    for address in ["192.0.2.7", "2001:db8::7"] {
        for seconds in [60, 600, 60] {
            assert_eq!(daemon.open(address, 22, seconds), "Ok(Opened)");
            let grants: Vec<_> =
                server.grants(TABLE).into_iter().filter(|grant| grant.0 == address).collect();
            assert_eq!(grants.len(), 1, "{grants:?}");
            let left = grants[0].2;
            assert!(
                left <= seconds.into() && left + 30 > seconds.into(),
                "{left} of {seconds} s left"
            );
        }
    }
}

#[test]
fn exactly_one_connection_gets_in_past_somebody_elses_firewall() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    for (server, address) in SERVER.into_iter().zip(CLIENT) {
        assert_eq!(client.connect(server, 22), "timed out", "before");
        assert_eq!(daemon.open(address, 22, 600), "Ok(Opened)");
        assert_eq!(client.connect(server, 23), "timed out", "another port");
        assert_eq!(client.connect(server, 22), "connected");
        assert_eq!(client.connect(server, 22), "timed out", "a second one");
        assert_eq!(server_marks(&net), 1, "one connection is marked");
        net.server.run(&["conntrack", "-F"]);
    }
}

/// Both packets find the grant before either has used it up, unless the kernel counts under a lock.
#[test]
fn of_two_connections_at_the_same_instant_one_gets_in() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    for _ in 0..100 {
        assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
        assert_eq!(client.ask(&format!("connect-twice {} 22", SERVER[0])), "1");
    }
}

#[test]
fn many_grants_in_a_row_for_the_same_client_all_work() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    for count in 0..300 {
        assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)", "{count}");
        assert_eq!(client.connect(SERVER[0], 22), "connected", "{count}");
    }
}

/// How many connections of the server have our mark.
fn server_marks(net: &Net) -> usize {
    net.server.run(&["conntrack", "-L", "--mark", "0x20000000/0x20000000"]).matches("src=").count()
        / 2
}

#[test]
fn a_grant_for_one_address_opens_nothing_for_another() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    assert_eq!(daemon.open("10.77.0.3", 22, 600), "Ok(Opened)");
    assert_eq!(daemon.open("fd77::3", 22, 600), "Ok(Opened)");
    for server in SERVER {
        assert_eq!(client.connect(server, 22), "timed out");
    }
    assert_eq!(server_grants(&net), 2);
}

fn server_grants(net: &Net) -> usize {
    net.server.grants(TABLE).len()
}

#[test]
fn an_established_connection_lives_on_after_the_grant_and_after_the_helper() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut listener, mut daemon, mut client) =
        (net.server.agent(), net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    listener.ask("listen 22");
    assert_eq!(daemon.open(CLIENT[0], 22, 2), "Ok(Opened)");
    assert_eq!(client.connect(SERVER[0], 22), "connected");
    assert_eq!(client.ask("talk 22"), "talked");
    assert_eq!(daemon.ask("end"), "exit status 0");
    until(2, "the table goes with the helper", || !net.server.has_table(TABLE));
    assert_eq!(client.ask("talk 22"), "talked");
}

/// The SYN-ACK is lost on its way, or before this host's connection tracking has seen it. The client sends its SYN again,
/// after the grant has been used up by the first.
#[test]
fn a_syn_that_is_sent_again_still_gets_in() {
    let lost_on_the_way = "add table inet lossy; add chain inet lossy c { type filter hook input priority 0; }; \
                           add rule inet lossy c tcp sport 22 drop";
    let lost_before_conntrack = "add table inet lossy; add chain inet lossy c { type filter hook output priority -400; }; \
                                 add rule inet lossy c tcp sport 22 drop";
    for v in [0, 1] {
        for (at_client, loss) in [(true, lost_on_the_way), (false, lost_before_conntrack)] {
            let net = Net::new();
            net.server.nft(FOREIGN);
            let lossy = if at_client { &net.client } else { &net.server };
            lossy.nft(loss);
            let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
            daemon.start_helper(NFTABLES);
            daemon.ask("listen 22");
            assert_eq!(daemon.open(CLIENT[v], 22, 600), "Ok(Opened)");
            client.order(&format!("connect {} 22 20000", SERVER[v]));
            until(5, "the SYN uses the grant up", || server_marks(&net) == 1);
            lossy.nft("delete table inet lossy");
            assert_eq!(client.answer(), "connected", "SYN-ACK lost {loss}");
        }
    }
}

#[test]
fn a_stray_packet_does_not_use_a_grant_up() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
    net.server.nft(
        "table inet seen { chain c { type filter hook prerouting priority -500; tcp dport 22 counter; }; }",
    );
    for flags in ["-A", "-F", "-R", "-SA"] {
        // Its status tells whether there was an answer, which none of these gets.
        net.client
            .try_run(&["hping3", "-q", "-c", "1", "-i", "u1000", flags, "-p", "22", SERVER[0]]);
    }
    let seen = || net.server.run(&["nft", "list", "table", "inet", "seen"]);
    until(5, "all four arrive", || seen().contains("counter packets 4 "));
    assert_eq!(server_grants(&net), 1);
    assert_eq!(client.connect(SERVER[0], 22), "connected");
}

#[test]
fn somebody_elses_flush_and_reload_lose_no_grant() {
    let net = Net::new();
    net.server.nft(FOREIGN);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.start_helper(NFTABLES);
    daemon.ask("listen 22");
    assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
    net.server.nft("flush ruleset");
    assert!(!net.server.has_table("foreign") && net.server.has_table(TABLE));
    net.server.nft(FOREIGN);
    assert_eq!(server_grants(&net), 1);
    assert_eq!(client.connect(SERVER[0], 22), "connected");
    assert_eq!(client.connect(SERVER[0], 22), "timed out");
    assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
}

#[test]
fn full_is_a_reply_and_not_the_end() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(NFTABLES);
    for port in [1, 2, 3] {
        assert_eq!(daemon.open("192.0.2.7", port, 600), "Ok(Opened)");
    }
    assert_eq!(daemon.open("192.0.2.7", 4, 600), "Ok(FullForSource)");
    assert_eq!(daemon.open("192.0.2.7", 3, 600), "Ok(Opened)", "one that is open is renewed");
    for port in [1, 2, 3] {
        assert_eq!(daemon.open("2001:db8::7", port, 600), "Ok(Opened)");
    }
    assert_eq!(daemon.open("192.0.2.8", 1, 600), "Ok(Full)");
    assert_eq!(server.grants(TABLE).len(), 6);
}

#[test]
fn a_second_owner_of_the_same_table_is_refused_and_another_instance_is_not() {
    let server = Namespace::server();
    let (mut first, mut second) = (server.agent(), server.agent());
    first.start_helper(NFTABLES);
    let refusal = second.ask(&format!("start {TABLE}"));
    assert!(refusal.contains("another knock-daemon owns table inet knockknock"), "{refusal}");
    second.start_helper("nftables:knockknock-lab");
    assert!(server.has_table(TABLE) && server.has_table("knockknock-lab"));
    assert_eq!(first.open("192.0.2.7", 22, 600), "Ok(Opened)");
    assert_eq!((server.grants(TABLE).len(), server.grants("knockknock-lab").len()), (1, 0));
}

#[test]
fn a_table_that_a_restored_ruleset_left_behind_is_replaced() {
    let server = Namespace::server();
    server.nft(
        "add table inet knockknock; add set inet knockknock open4 { type ipv4_addr; }; \
         add element inet knockknock open4 { 192.0.2.66 }",
    );
    let mut daemon = server.agent();
    daemon.start_helper(NFTABLES);
    assert_eq!(server.grants(TABLE), []);
    assert_eq!(daemon.open("192.0.2.7", 22, 600), "Ok(Opened)");
}
