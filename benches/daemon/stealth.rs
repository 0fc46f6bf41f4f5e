//! What profiles of the stealth layout cost, ten of them and ten thousand: the start, memory, a knock, and moving all of their
//! numbers with the clock.

use std::time::{Duration, Instant};

use crate::cost::{Memory, Processes};
use crate::laptop::Laptop;
use crate::net::{Family, Net};
use crate::rules::{Key, RuleEvents, rest};
use crate::site::{Log, Site};
use crate::support::measure::{Samples, Table, seconds, time};
use crate::wire::channel_on;

const KNOCKS: u16 = 200;
/// As many numbers as the kernel's set holds move this often, in seconds; fewer profiles' every ten minutes.
const MOVES_OF_TEN_THOUSAND: u64 = 110;

pub(crate) fn run() {
    let mut table = Table::new([
        "profiles",
        "start",
        "its CPU time",
        "daemon RSS",
        "kernel",
        "knock: SYN sent to grant",
        "its CPU time",
    ]);
    let mut moved = None;
    for profiles in [10, 1_000, 10_000] {
        println!("{profiles} stealth profiles ...");
        let mut site =
            Site::prepare(Net::lan(), Log::Kmsg, "delay = 600\nmax_open_per_source = 1024\n");
        let laptops: Vec<_> =
            (0..profiles).map(|nth| Laptop::new(&site, &format!("laptop-{nth}"), "")).collect();
        let slab = slab();
        let (start, ()) = time(|| site.start_daemon());
        let processes = Processes::of(site.daemon().pid());
        let starting = processes.cpu();
        rest(Duration::from_secs(1));
        let kernel = self::slab().saturating_sub(slab);
        let memory = Memory::of(processes.daemon).rss;
        let (waits, costs) = knock(&site, &laptops, processes);
        table.row([
            profiles.to_string(),
            seconds(start.as_secs_f64()),
            seconds(starting.as_secs_f64()),
            format!("{memory} KiB"),
            format!("{kernel} KiB"),
            waits.show(seconds),
            costs.show(seconds),
        ]);
        if profiles == 10_000 {
            moved = Some((wait_for_move(processes), Memory::of(processes.daemon).rss));
        }
    }
    table.print(&format!("Stealth profiles ({KNOCKS} knocks each; CPU time is both processes')"));
    if let Some(((wall, cpu), rss)) = moved {
        println!(
            "\nThe numbers of 10,000 move in {} ({} of CPU time); daemon RSS then: {rss} KiB",
            seconds(wall.as_secs_f64()),
            seconds(cpu.as_secs_f64())
        );
    }
}

/// Knocks with one profile after the other: how long until the grant is in the kernel, and the CPU time of each.
fn knock(site: &Site, laptops: &[Laptop], processes: Processes) -> (Samples, Samples) {
    let (mut waits, mut costs) = (Samples::new(), Samples::new());
    let rules = RuleEvents::of(&site.net.server);
    let (mut sender, _) = site.net.client.inside(|| channel_on("eth0"));
    for port in 1000..1000 + KNOCKS {
        let laptop = &laptops[usize::from(port) * 7919 % laptops.len()];
        let frame = laptop.frame(site, &site.net.client, Family::V4, port, laptop.seal(port));
        rules.clear();
        let before = processes.cpu();
        let start = Instant::now();
        sender.send_to(&frame, None).unwrap().unwrap();
        let granted = rules.wait_for(&Key::new(site.net.client.ipv4.into(), port));
        waits.add_time(granted - start);
        // Until its numbers have moved, too.
        rest(Duration::from_millis(50));
        costs.add_time(processes.cpu().saturating_sub(before));
    }
    (waits, costs)
}

/// Waits until the clock moves all numbers: how long that takes, and the CPU time.
fn wait_for_move(processes: Processes) -> (Duration, Duration) {
    const MUCH: Duration = Duration::from_millis(20);
    const SHORT: Duration = Duration::from_millis(10);
    let end = Instant::now() + Duration::from_secs(MOVES_OF_TEN_THOUSAND + 20);
    let (mut at_rest, mut last) = (processes.cpu(), Instant::now());
    // Somebody else's line in the kernel's log costs less than that.
    while processes.cpu().saturating_sub(at_rest) < MUCH {
        assert!(Instant::now() < end, "nothing has moved in {MOVES_OF_TEN_THOUSAND} s");
        (at_rest, last) = (processes.cpu(), Instant::now());
        rest(SHORT * 3);
    }
    let (began, mut cpu) = (last, processes.cpu());
    let mut ended = Instant::now();
    while ended.elapsed() < MUCH * 10 {
        rest(SHORT);
        let now = processes.cpu();
        if now > cpu {
            (cpu, ended) = (now, Instant::now());
        }
    }
    (ended - began, cpu.saturating_sub(at_rest))
}

/// The kernel's memory for its own objects, in KiB.
fn slab() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("Slab:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
