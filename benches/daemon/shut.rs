//! From the client's handshake until the door is shut behind it, and what a second connection finds then.

use std::time::Instant;

use crate::connection::Reach;
use crate::kernel_log::Framing;
use crate::knocker::{Knocker, leave_second_processor_alone, take_packets_on_the_second_processor};
use crate::latency::pause;
use crate::net::Net;
use crate::process::SOON;
use crate::rules::{Key, RuleEvents};
use crate::site::{Log, Site};
use crate::support::measure::{Samples, Table, seconds};

const PORT: u16 = 2222;
const KNOCKS: usize = 200;
/// After each handshake.
const SECOND_CONNECTIONS: usize = 5;

pub(crate) fn run() {
    let mut table = Table::new([
        "",
        "median",
        "95th percentile",
        "least",
        "greatest",
        "second connections refused",
    ]);
    for (name, log) in [("kmsg", Log::Kmsg), ("kern.log", Log::File(Framing::Traditional))] {
        println!("{name} ...");
        let mut site = Site::prepare(
            Net::lan(),
            log,
            "allow = tcp/2222\ndelay = 600\nmax_open_per_source = 1024\nmax_open_per_profile = 1024\n",
        );
        site.net.server.run(&["nft", "flush", "ruleset"]);
        site.script(&["--only", &format!("tcp/{PORT}")]);
        site.start_daemon();
        take_packets_on_the_second_processor(&site);
        let _service = site.net.server.echo(PORT);
        let (rules, mut knocker) = (RuleEvents::of(&site.net.server), Knocker::of(&site));
        let key = Key::new(knocker.address, PORT);
        let server = site.net.server.ipv4.into();
        let (mut shut, mut refused) = (Samples::new(), 0);
        for nth in 0..KNOCKS {
            pause(nth);
            leave_second_processor_alone(true);
            let fields = knocker.knock_for(PORT);
            knocker.send(fields);
            rules.wait_for(&key);
            let first = site.net.client.connect(server, PORT, SOON).unwrap();
            let stands = Instant::now();
            shut.add_time(rules.wait_for_end_of(&key).saturating_duration_since(stands));
            leave_second_processor_alone(false);
            refused += (0..SECOND_CONNECTIONS)
                .filter(|_| site.net.client.can_connect(server, PORT, SOON) == Reach::Refused)
                .count();
            drop(first);
        }
        let shown = [50, 95, 0, 100].map(|percent| seconds(shut.percentile(percent)));
        let [median, high, least, most] = shown;
        let tried = KNOCKS * SECOND_CONNECTIONS;
        table.row([name.into(), median, high, least, most, format!("{refused} of {tried}")]);
    }
    table.print(&format!("From the client's handshake to shut ({KNOCKS} connections each)"));
}
