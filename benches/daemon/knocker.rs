//! Somebody with a profile who knocks without delay: keys, counter and raw socket are there already.

use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use knockknock::client::knock::packet::{AddressPair, KnockPacket};
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::layout::Request;
use knockknock::layout::classic::{Keys, seal};
use knockknock::profile::files::ProfileFiles;
use knockknock::syn::SynFields;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::site::{HOST, KNOCK_PORT, Site, write_private};

/// The client of a site.
pub(crate) struct Knocker {
    keys: Keys,
    raw: RawSockets,
    /// The client and the server.
    pub(crate) addresses: AddressPair,
    /// Who is let in.
    pub(crate) address: IpAddr,
    next: u32,
    port: u16,
}

impl Knocker {
    pub(crate) fn of(site: &Site) -> Self {
        let (profile, counter) =
            ProfileFiles::read(&site.profile("client")).unwrap().parse().unwrap();
        let (client, server) = (site.net.client.ipv4, site.net.server.ipv4);
        Self {
            keys: profile.keys.classic().unwrap().clone(),
            raw: site.net.client.inside(RawSockets::open).unwrap(),
            addresses: AddressPair::V4(client, server),
            address: client.into(),
            next: counter.read().unwrap(),
            port: 1000,
        }
    }

    /// The next knock, for a port that none has asked for before.
    pub(crate) fn knock(&mut self) -> (u16, SynFields) {
        self.port += 1;
        (self.port, self.knock_for(self.port))
    }

    /// The next knock, for this port.
    pub(crate) fn knock_for(&mut self, port: u16) -> SynFields {
        loop {
            let counter = self.next;
            self.next += 1;
            if let Ok(fields) = seal(&self.keys, Request(port), counter) {
                return fields;
            }
        }
    }

    /// Sends a knock, and says when.
    pub(crate) fn send(&self, fields: SynFields) -> Instant {
        let packet = KnockPacket::classic(self.addresses, 40_000, KNOCK_PORT, fields, 0);
        let start = Instant::now();
        self.raw.send(&packet, 0).unwrap();
        start
    }

    /// Lets the program `knock` go on with this profile where we are.
    pub(crate) fn hand_over(&self, site: &Site) {
        let dir = site.profiles("client").join(HOST);
        write_private(&dir.join("counter"), format!("{}\n", self.next));
        let server = site.net.server.ipv4;
        fs::write(
            dir.join("config"),
            format!("[main]\nknock_port = {KNOCK_PORT}\naddress = \"{server}\"\n"),
        )
        .unwrap();
    }
}

/// Has a server take its packets on the second processor, in an interrupt, as from a real network.
pub(crate) fn take_packets_on_the_second_processor(site: &Site) {
    let queue = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
    site.net.server.run(&["sh", "-c", &format!("echo 2 >{queue}")]);
}

/// This thread leaves the second processor alone from now on, or does not, where there are so many.
pub(crate) fn leave_second_processor_alone(alone: bool) {
    let mut set = CpuSet::new();
    for number in (0..CpuSet::count()).filter(|&number| number != 1 || !alone) {
        set.set(number).unwrap();
    }
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}
