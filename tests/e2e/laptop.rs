//! Somebody with a profile of the stealth layout, whose knocks are made here and sent as packets; and the servers that have
//! it.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use knockknock::layout::Request;
use knockknock::layout::stealth::{StealthFields, StealthKeys};
use knockknock::layout::steps::{StealthSender, step_of};

use crate::connection::Reach;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::site::{Log, Site, logs, write_private};
use crate::wire::{Ecn, Route, make_stealth_knock, send_frames};

/// The service behind the door.
pub(crate) const PORT: u16 = 2222;
/// Long enough for every test.
pub(crate) const CONFIG: &str = "delay = 600\n";
/// With a list of what may be asked for, and without.
pub(crate) const ALLOWS: [&str; 2] = ["", "allow = tcp/22, tcp/2222, tcp/2223\n"];

/// Somebody with a profile of the stealth layout.
pub(crate) struct Laptop {
    pub(crate) keys: StealthKeys,
    pub(crate) sender: Cell<StealthSender>,
    /// Of the next knock: no two have the same.
    source_port: Cell<u16>,
}

impl Laptop {
    /// Gives the server the profile `name`.
    pub(crate) fn new(site: &Site, name: &str, config: &str) -> Self {
        let mut secret = [0; 32];
        secret.iter_mut().zip(name.bytes().cycle()).for_each(|(to, byte)| *to = byte);
        let dir = site.profile(name);
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        write_private(&dir.join("secret.key"), BASE64_STANDARD.encode(secret) + "\n");
        write_private(&dir.join("config"), format!("[main]\nlayout = stealth\n{config}"));
        write_private(&dir.join("counter"), "0\n");
        Self {
            keys: StealthKeys::new(&secret),
            sender: Cell::new(StealthSender::default()),
            source_port: Cell::new(33_000),
        }
    }

    /// The number of the next knock.
    pub(crate) fn number(&self) -> u64 {
        let mut sender = self.sender.get();
        let n = sender.next(step_now()).unwrap();
        self.sender.set(sender);
        n
    }

    /// The next knock for a port.
    pub(crate) fn seal(&self, port: u16) -> StealthFields {
        self.keys.seal(self.number(), Request(port), None)
    }

    /// A frame with a knock from `host` to `port`.
    pub(crate) fn frame(
        &self,
        site: &Site,
        host: &Host,
        family: Family,
        port: u16,
        knock: StealthFields,
    ) -> Vec<u8> {
        self.source_port.set(self.source_port.get() + 2);
        let from = SocketAddr::new(host.address(family), self.source_port.get());
        let to = SocketAddr::new(site.net.server.address(family), port);
        make_stealth_knock(Route::between(host, &site.net.server), from, to, knock, Ecn::None)
    }

    /// Sends a knock from the client to `port`.
    pub(crate) fn send(
        &self,
        site: &Site,
        family: Family,
        port: u16,
        knock: StealthFields,
    ) -> Vec<u8> {
        let frame = self.frame(site, &site.net.client, family, port, knock);
        send_frames(&site.net.client, std::slice::from_ref(&frame));
        frame
    }

    /// Knocks for `port`, at that port, and waits until the daemon has opened. The frame.
    #[track_caller]
    pub(crate) fn knock(&self, site: &mut Site, family: Family, port: u16) -> Vec<u8> {
        let before = site.opened();
        let frame = self.send(site, family, port, self.seal(port));
        wait_until(SOON, "a grant", || site.opened() > before);
        frame
    }
}

/// The step that the clock is at.
pub(crate) fn step_now() -> u64 {
    step_of(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

/// A server with nobody's firewall, closed by our guard, that has two classic profiles and a stealth one.
pub(crate) fn guarded(log: Log, config: &str) -> (Site, Laptop) {
    let mut site = Site::prepare(Net::lan(), log, config);
    let laptop = Laptop::new(&site, "laptop", "");
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.script(&["--only", &format!("tcp/{PORT},tcp/22")]);
    site.start_daemon();
    (site, laptop)
}

/// The same with a LOG rule of somebody else's firewall, which closes the server, too.
pub(crate) fn firewalled(log: Log) -> (Site, Laptop) {
    let mut site = Site::prepare(Net::lan(), log, &format!("{CONFIG}log_rule = firewall\n"));
    site.minimal_firewall(&["--knock-port", "22", "--knock-port", &PORT.to_string()]);
    let laptop = Laptop::new(&site, "laptop", "");
    site.start_daemon();
    (site, laptop)
}

/// Each log, with our own rule and with somebody else's.
pub(crate) fn everywhere(mut check: impl FnMut(&mut Site, &Laptop, Family)) {
    for (log, allow) in logs().into_iter().zip(ALLOWS) {
        for (mut site, laptop) in [guarded(log, &format!("{CONFIG}{allow}")), firewalled(log)] {
            for family in FAMILIES {
                check(&mut site, &laptop, family);
            }
        }
    }
}

/// Connects through a grant, which is closed behind that.
#[track_caller]
pub(crate) fn comes_in_once(site: &mut Site, family: Family) {
    let before = site.came_in();
    assert_eq!(site.reach(family, PORT), Reach::Connected);
    wait_until(SOON, "the grant is closed", || site.came_in() > before);
    assert_eq!(site.reach(family, PORT), Reach::Refused);
}

/// How many lines of the daemon say this.
pub(crate) fn count(site: &mut Site, what: &str) -> usize {
    site.daemon().lines().iter().filter(|line| line.contains(what)).count()
}
