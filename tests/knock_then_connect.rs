//! `knock` and then, at once, a program that connects: it gets in each time, because `knock` waits for the answer to
//! its SYN and gives the server the time to open. A program of its own, so that no other test keeps the machine busy.
#![cfg(feature = "e2e")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

#[macro_use]
#[path = "support/harness.rs"]
mod harness;

harness! {
    "e2e/delay.rs" delay;
    "e2e/kernel_log.rs" kernel_log;
    "e2e/net.rs" net;
    "e2e/user.rs" user;
    "e2e/process.rs" process;
    "e2e/site.rs" site;
    "e2e/connection.rs" connection;
    "e2e/wire.rs" wire;
}

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use connection::Reach;
use delay::Delay;
use net::{FAMILIES, Family, Net};
use site::{HOST, Site, logs};
use user::{Sshd, User, said};

const PORT: u16 = 2222;
/// How long a frame takes, each way, on a long wire, and how much more or less.
const LONG: Duration = Duration::from_millis(80);
const JITTER: Duration = Duration::from_millis(20);

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// How often each is tried; `KNOCKKNOCK_ROUNDS` for a figure.
fn rounds(usual: u32) -> u32 {
    std::env::var("KNOCKKNOCK_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// Runs `knock -p PORT HOST && connect` again and again as a user does.
fn knock_and(site: &Site, user: &User, port: u16, connect: &str, rounds: u32, what: &str) {
    let mut failed = Vec::new();
    for _ in 0..rounds {
        let line = format!("knock -p {port} {HOST} && {connect}");
        let output = user.sh(&site.net.client, &line);
        if !output.status.success() {
            failed.push(said(&output));
        }
    }
    let got_in = rounds as usize - failed.len();
    eprintln!("knock && {what}: {got_in} of {rounds}");
    assert!(failed.is_empty(), "{what}: {got_in} of {rounds} got in: {failed:#?}");
}

/// Lets both ends learn each other's Ethernet address: a long wire is many short ones, and this goes over the first.
fn meet(site: &Site, family: Family) {
    assert_eq!(site.reach(family, PORT), Reach::Refused);
}

fn always_in(delay: Option<Duration>, with_ssh: bool, usual: u32) {
    let how = if delay.is_some() { "80 ms each way, jitter 20 ms" } else { "no delay" };
    // One after the other, but for the long wires: those wait most of the time.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cells = logs().into_iter().flat_map(|log| FAMILIES.map(|family| (log, family)));
    let try_one = |log, family| {
        let net = Net::lan();
        let _wire = delay.map(|delay| Delay::on(&net, delay, JITTER));
        let site = Site::start(net, log, "delay = 15\n");
        meet(&site, family);
        let user = User::new(&site, family);
        let what = |program| format!("{program}, {family:?}, {log:?}, {how}");
        if with_ssh {
            let sshd = Sshd::start(&site, &user, family);
            let ssh = format!("ssh -F {} direct true", sshd.config.display());
            knock_and(&site, &user, 22, &ssh, rounds(usual), &what("ssh"));
        } else {
            let _service = site.net.server.echo(PORT);
            let nc = format!("nc -z {} {PORT}", site.net.server.address(family));
            knock_and(&site, &user, PORT, &nc, rounds(usual), &what("nc -z"));
        }
    };
    if delay.is_none() {
        cells.for_each(|(log, family)| try_one(log, family));
        return;
    }
    std::thread::scope(|scope| {
        for (log, family) in cells {
            scope.spawn(move || try_one(log, family));
        }
    });
}

#[test]
fn knock_and_nc_gets_in_each_time() {
    always_in(None, false, 20);
}

#[test]
fn knock_and_ssh_gets_in_each_time() {
    always_in(None, true, 10);
}

#[test]
fn knock_and_nc_gets_in_each_time_over_a_long_wire() {
    always_in(Some(LONG), false, 10);
}

#[test]
fn knock_and_ssh_gets_in_each_time_over_a_long_wire() {
    always_in(Some(LONG), true, 3);
}
