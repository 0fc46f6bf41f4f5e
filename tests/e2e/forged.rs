//! Lines that another user of the server writes into the log file, through the socket that is open to everybody. They
//! look like the kernel's own. What their author can reach with them, at most, is what a stranger can reach with packets.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use knockknock::layout::Request;
use knockknock::layout::classic::seal;
use knockknock::profile::files::ProfileFiles;
use knockknock::syn::SynFields;

use crate::kernel_log::Framing;
use crate::net::{Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{KNOCK_PORT, Log, Site};

/// The service behind the door.
const PORT: u16 = 2222;
/// `nobody`.
const UID: u32 = 65_534;

#[test]
fn whoever_forges_lines_without_keys_opens_nothing() {
    let mut site = Site::start(Net::lan(), Log::File(Framing::Traditional), "delay = 600\n");
    let guess = SynFields { id: 4660, seq: 1, ack: 2, window: 3 };
    forge(&mut site, "192.0.2.66", guess);
    // This much a forger reaches: a line that accuses whom he likes. A packet with a forged source does the same.
    site.wait_for("profile \"client\": 1 invalid knock from 192.0.2.66");

    // A knock that was used, read off the log or the wire, is of no use to him either.
    let used = knock_of(&site, 0);
    site.knock(Family::V4, PORT);
    assert_eq!(site.counters("client"), ["1", "1"]);
    for source in ["10.66.1.3", "0.0.0.0", "0.0.0.0/0", "10.66.1.3,10.66.1.2"] {
        forge(&mut site, source, used);
    }
    // What comes after the forged lines has been read after them.
    site.knock(Family::V6, PORT);
    assert_eq!(site.opened(), 2, "the two knocks that were knocks: {:#?}", site.daemon().lines());
    assert_eq!(site.grants().len(), 2);
    assert_eq!(site.counters("client"), ["2", "2"]);
}

#[test]
fn a_forger_with_a_knock_that_never_arrived_can_open_for_one_address_and_not_for_the_world() {
    let mut site = Site::start(Net::lan(), Log::File(Framing::Traditional), "delay = 600\n");
    // A source that is not one host is no line of the kernel's, or nobody who can be let in.
    let [first, second, third] = [0, 1, 2].map(|counter| knock_of(&site, counter));
    forge(&mut site, "0.0.0.0/0", first);
    forge(&mut site, "0.0.0.0", second);
    site.wait_for("0.0.0.0 is not the address of one other host");
    assert_eq!(site.grants(), Vec::<String>::new());
    // What he can do is what the classic layout lets anybody do who holds back a knock on its way: use it himself.
    forge(&mut site, "10.66.1.3", third);
    site.wait_for("opened tcp/2222 to 10.66.1.3");
    // Once.
    forge(&mut site, "10.66.1.2", third);
    site.wait_for("1 invalid knock (1 replayed) from 10.66.1.2");
    assert_eq!((site.opened(), site.grants().len()), (1, 1));
}

/// The knock that the client would send with a counter.
fn knock_of(site: &Site, counter: u32) -> SynFields {
    let (profile, _) = ProfileFiles::read(&site.profile("client")).unwrap().parse().unwrap();
    seal(profile.keys.classic().unwrap(), Request(PORT), counter).expect("an ID that is not 0")
}

/// Writes, as `nobody`, the line that the kernel would write about a knock, and waits until it is in the log file.
fn forge(site: &mut Site, source: &str, SynFields { id, seq, ack, window }: SynFields) {
    let line = format!(
        "<4>kernel: [    1.000000] {}IN=eth0 OUT= MAC= SRC={source} DST=10.66.1.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 \
         ID={id} PROTO=TCP SPT=40000 DPT={KNOCK_PORT} SEQ={seq} ACK={ack} WINDOW={window} RES=0x00 SYN URGP=0 ",
        site.net.prefix
    );
    let lines = |site: &mut Site| {
        let log = std::fs::read_to_string(&site.rsyslog().kern_log).unwrap();
        log.lines().filter(|line| line.contains(&format!(" SRC={source} "))).count()
    };
    let before = lines(site);
    let mut perl = Command::new("perl");
    perl.args(["-MSocket", "-e", "socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die; defined send($s, $ARGV[1], 0, pack_sockaddr_un($ARGV[0])) or die \"$!\""])
        .arg(&site.rsyslog().dev_log)
        .arg(line)
        .uid(UID)
        .gid(UID);
    let output = perl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_until(SOON, "the forged line in the log", || lines(site) > before);
}
