//! Knocks through a flood: how many get in, what the flood has logged, and what it costs the daemon.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use knockknock::client::knock::packet::{AddressPair, KnockPacket};
use knockknock::client::knock::raw_socket::RawSockets;

use crate::connection::Reach;
use crate::cost::Processes;
use crate::kernel_log::{DAEMONS, KernelLog};
use crate::knocker::Knocker;
use crate::net::Net;
use crate::rules::rest;
use crate::site::{KNOCK_PORT, Log, Site};
use crate::support::measure::{Table, rate};
use crate::torrent::{Aim, Torrent};

const PORT: u16 = 2222;
const KNOCKS: usize = 20;
const A_SECOND: u32 = 50_000;
/// As long as `knock -W` waits before it knocks again; a knock is sent once here.
const PATIENCE: Duration = Duration::from_secs(1);
/// Each flood lasts at least so long.
const LASTS: Duration = Duration::from_secs(5);

pub(crate) fn run() {
    let mut table = Table::new([
        "profile",
        "flood",
        "SYNs a second",
        "knocks heard",
        "connections in",
        "log lines",
        "of 1,000,000 SYNs",
        "CPU of the daemon",
    ]);
    for (profile, allow) in [("`allow = tcp/2222`", "allow = tcp/2222\n"), ("no `allow`", "")] {
        for (name, from_client, port) in [
            ("none", false, None),
            ("random sources, knock port", false, Some(KNOCK_PORT)),
            ("random sources, service", false, Some(PORT)),
            ("the client's address, knock port", true, Some(KNOCK_PORT)),
            ("the client's address, service", true, Some(PORT)),
        ] {
            println!("{profile}, {name} ...");
            let got = knocks_through(&mut guarded(Net::lan(), allow), from_client, port);
            table.row([
                profile.into(),
                name.into(),
                port.map_or_else(|| "-".into(), |_| rate(got.a_second, "")),
                format!("{} of {KNOCKS}", got.heard),
                format!("{} of {KNOCKS}", got.inside),
                got.lines.to_string(),
                port.map_or_else(
                    || "-".into(),
                    |_| format!("{:.1}", got.lines_of_flood() * 1e6 / got.sent as f64),
                ),
                format!("{:.2} %", 100.0 * got.cpu.as_secs_f64() / got.wall.as_secs_f64()),
            ]);
        }
    }
    table.print(&format!(
        "{KNOCKS} knocks, each sent once, through a flood of SYNs ({A_SECOND} a second asked for)"
    ));
    thief();
}

/// What came of the knocks, and of the flood.
struct Got {
    heard: usize,
    inside: usize,
    lines: usize,
    sent: u64,
    a_second: f64,
    cpu: Duration,
    wall: Duration,
}

impl Got {
    /// Without those of the knocks and of the connections that came in.
    fn lines_of_flood(&self) -> f64 {
        self.lines.saturating_sub(self.heard + self.inside) as f64
    }
}

/// Closed by the guard alone.
fn guarded(net: Net, allow: &str) -> Site {
    let config =
        format!("{allow}delay = 600\nmax_open_per_source = 1024\nmax_open_per_profile = 1024\n");
    let mut site = Site::prepare(net, Log::Kmsg, &config);
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.script(&["--only", &format!("tcp/{PORT}")]);
    // Answers to anybody leave, as on a real server.
    let other = site.net.other.ipv4;
    site.net.server.ip(&format!("route add default via {other}\n"));
    site.start_daemon();
    site
}

fn aim(site: &Site, from_client: bool, port: u16) -> Aim {
    let source: Option<Ipv4Addr> = from_client.then_some(site.net.client.ipv4);
    Aim { source, destination: SocketAddrV4::new(site.net.server.ipv4, port) }
}

fn knocks_through(site: &mut Site, from_client: bool, port: Option<u16>) -> Got {
    let _service = site.net.server.echo(PORT);
    let server = site.net.server.ipv4.into();
    let processes = Processes::of(site.daemon().pid());
    let mut knocker = Knocker::of(site);
    let tag = site.tag();
    let log = KernelLog::of_lines_with(&[DAEMONS]);
    let (before, start) = (processes.cpu(), Instant::now());
    let torrent = port.map(|port| {
        let torrent = Torrent::start(&site.net.other, aim(site, from_client, port), A_SECOND);
        rest(PATIENCE);
        torrent
    });
    let (mut heard, mut inside) = (0, 0);
    for _ in 0..KNOCKS {
        let (opened, came_in) = (site.opened(), site.came_in());
        let fields = knocker.knock_for(PORT);
        knocker.send(fields);
        if wait(|| site.opened() > opened) {
            heard += 1;
            if site.net.client.can_connect(server, PORT, PATIENCE) == Reach::Connected {
                inside += 1;
                wait(|| site.came_in() > came_in);
            }
        }
    }
    rest(LASTS.saturating_sub(start.elapsed()));
    let (wall, cpu) = (start.elapsed(), processes.cpu().saturating_sub(before));
    let (sent, a_second) = torrent.map_or((0, 0.0), Torrent::stop);
    let lines = log.lines().iter().filter(|line| line.contains(&tag)).count();
    Got { heard, inside, lines, sent, a_second, cpu, wall }
}

/// Somebody sniffs each knock, floods so that a limit would drop the original, and sends a copy at once.
fn thief() {
    let mut site = guarded(Net::lan(), "allow = tcp/2222\n");
    let mut knocker = Knocker::of(&site);
    let raw = site.net.other.inside(RawSockets::open).unwrap();
    let addresses = AddressPair::V4(site.net.other.ipv4, site.net.server.ipv4);
    let torrent = Torrent::start(&site.net.other, aim(&site, true, KNOCK_PORT), A_SECOND);
    rest(PATIENCE);
    for _ in 0..KNOCKS {
        let opened = site.opened();
        let fields = knocker.knock_for(PORT);
        knocker.send(fields);
        let copy = KnockPacket::classic(addresses, 40_000, KNOCK_PORT, fields, 0);
        raw.send(&copy, 0).unwrap();
        wait(|| site.opened() > opened);
    }
    let (_, a_second) = torrent.stop();
    let opened = |host: Ipv4Addr, site: &mut Site| {
        let to = format!(": opened tcp/{PORT} to {host}");
        site.daemon().lines().iter().filter(|line| line.contains(&to)).count()
    };
    let (client, other) = (site.net.client.ipv4, site.net.other.ipv4);
    println!(
        "\nSniffed, silenced by {}, sent again: of {KNOCKS} knocks {} opened to their sender and {} to the thief",
        rate(a_second, " SYNs"),
        opened(client, &mut site),
        opened(other, &mut site)
    );
}

/// Whether it has come true in time.
fn wait(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if condition() {
            return true;
        }
        rest(Duration::from_millis(2));
    }
    condition()
}
