//! What it costs to open a port: through the helper over netlink, as the daemon does it, by an expectation and by an element
//! of a set; and by running `nft`. In a network namespace of its own. `sudo cargo bench --bench grants`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on stops, and printing is what it is for"
)]

#[path = "../tests/e2e/cost.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod cost;
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use cost::{Memory, Processes};
use knockknock::daemon::helper_handle::HelperHandle;
use knockknock::grant::{Grant, Protocol, Spend};
use knockknock::privileged::drop_privileges::Ids;
use knockknock::privileged::firewall::log_rules::LogRules;
use knockknock::privileged::firewall::{BackEnd, Firewall};
use knockknock::privileged::limits::Limits;
use knockknock::privileged::message::Reply;
use knockknock::privileged::spawn::spawn_helper;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use support::measure::{Samples, Table, rate, seconds, time};

const ROUNDS: u8 = 20;
const SECONDS: u16 = 600;
/// An address of the namespace's loopback device.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn main() {
    if !geteuid().is_root() {
        println!("grants: skipped, it changes a firewall: sudo scripts/bench.sh runs it");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for arguments in [format!("addr add {OWN} dev lo"), "link set lo up".into()] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    }
    grants();
    memory();
}

/// One way to open a port.
enum Way {
    Helper(HelperHandle),
    Library(Firewall),
    Nft,
}

impl Way {
    fn open(&mut self, request: &Grant) {
        match self {
            Self::Helper(helper) => assert_eq!(helper.ask_open(request), Ok(Reply::Opened)),
            Self::Library(firewall) => firewall.open(request).unwrap(),
            Self::Nft => {
                let Grant { address, port, seconds, .. } = request;
                nft(&format!(
                    "add element inet bench open4 {{ {address} . tcp . {port} timeout {seconds}s }}"
                ));
            }
        }
    }
}

fn grants() {
    nft(
        "table inet bench { set open4 { type ipv4_addr . inet_proto . inet_service; flags dynamic,timeout; size 65535; }; }",
    );
    let log = LogRules {
        knock_prefix: "KNOCK-bench ".into(),
        came_in_prefix: "KNOCK-IN-bench ".into(),
        per_second: 200,
        burst: 200,
    };
    let firewall = |name, back_end| {
        Firewall::create(name, back_end, &log, limits().max_open).expect("a firewall of ours")
    };
    let by_helper = |name, back_end| Way::Helper(helper(firewall(name, back_end)));
    // What a program does is not done as often as what a system call does.
    let mut ways = [
        ("asking the helper, an expectation", by_helper("bench-helper", BackEnd::Conntrack), 100),
        ("asking the helper, an element of a set", by_helper("bench-set", BackEnd::Nftables), 100),
        // Expectations of two firewalls of one process would be each other's.
        (
            "the same without a helper",
            Way::Library(firewall("bench-library", BackEnd::Nftables)),
            100,
        ),
        ("running `nft add element`", Way::Nft, 10),
    ];
    let mut times = vec![Samples::default(); ways.len()];
    for round in 0..ROUNDS {
        for ((_, way, count), times) in ways.iter_mut().zip(&mut times) {
            let (taken, ()) = time(|| {
                (0..*count).for_each(|nth| way.open(&request(round, nth)));
            });
            times.add_time(taken / u32::from(*count));
        }
    }
    let mut shown = Table::new(["a port opened by", "time", "a second", "times as long"]);
    let first = times[0].median();
    for ((name, ..), times) in ways.iter().zip(&times) {
        shown.row([
            (*name).into(),
            times.show(seconds),
            rate(1.0 / times.median(), ""),
            format!("{:.1}", times.median() / first),
        ]);
    }
    shown.print(&format!("Grants ({ROUNDS} rounds in turns)"));
    let nft = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("\n`nft` itself, while it runs: at most {} of memory", kib(nft.unsigned_abs()));
}

/// The real daemon with each back end.
fn memory() {
    let mut shown = Table::new(["back end", "process", "RSS", "PSS"]);
    for back_end in ["conntrack", "nftables"] {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
            .arg("--config-dir")
            .arg(dir.path())
            .args(["guest", "666"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        fs::write(dir.path().join("config"), "[main]\nlog_prefix = \"REJECT-bench \"\n").unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_knock-daemon"))
            .arg("--config-dir")
            .arg(dir.path())
            .args(["--user", "nobody", "--log", "kmsg", "--firewall", back_end])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(daemon.stderr.take().unwrap()).lines();
        assert!(said.map_while(Result::ok).any(|line| line == "ready"), "the daemon starts");
        let pid = Pid::from_raw(daemon.id().try_into().unwrap());
        let processes = Processes::of(pid);
        for (name, process) in [("daemon", processes.daemon), ("helper", processes.helper)] {
            let Memory { rss, pss } = Memory::of(process);
            shown.row([back_end.into(), name.into(), kib(rss), kib(pss)]);
        }
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(daemon.wait().unwrap().success());
    }
    shown.print("Memory of the daemon that asks, and of its helper");
}

fn kib(size: u64) -> String {
    format!("{:.1} MiB", size as f64 / 1024.0)
}

fn helper(firewall: Firewall) -> HelperHandle {
    let nobody = User::from_name("nobody").unwrap().expect("a user nobody");
    let ids = Ids { uid: nobody.uid, gid: nobody.gid, groups: Vec::new() };
    HelperHandle::when_ready(spawn_helper(firewall, &limits(), &ids).unwrap()).unwrap()
}

fn limits() -> Limits {
    Limits {
        allow: None,
        max_seconds: SECONDS,
        max_open: 4096,
        max_open_per_source: 4096,
        ipv4: true,
        ipv6: false,
    }
}

/// Another one each time: nothing is renewed.
fn request(round: u8, nth: u16) -> Grant {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, round));
    Grant {
        address,
        destination: OWN.into(),
        protocol: Protocol::Tcp,
        port: 1 + nth,
        seconds: SECONDS,
        spend: Spend::One,
    }
}

fn nft(command: &str) {
    assert!(Command::new("nft").arg(command).status().unwrap().success());
}
