//! From a SYN to an open door, for each source; beside it what others need for parts of that.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use knockknock::counter::Counter;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::drain::follow;
use crate::kernel_log::Framing;
use crate::knocker::{Knocker, leave_second_processor_alone, take_packets_on_the_second_processor};
use crate::net::Net;
use crate::rules::{Key, RuleEvents, rest};
use crate::site::{HOST, KNOCK_PORT, Log, Site, write_private};
use crate::support::lines::knock_line;
use crate::support::measure::{Samples, Table, seconds, time};

const KNOCKS: usize = 200;
const COMMANDS: u16 = 100;
/// The firewall script logs 200 knocks of one source at once and 4 a second after that: a site for each 200.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest time between two ticks of the kernel's clock (`CONFIG_HZ=100`).
const TICK: Duration = Duration::from_millis(10);
pub(crate) const CONFIG: &str = "max_open_per_source = 1024\nmax_open_per_profile = 1024\n";

pub(crate) fn run() {
    let mut table = Table::new(["", "median", "95th percentile", "least", "greatest"]);
    let mut show = |name: &str, samples: &Samples| {
        let shown = [50, 95, 0, 100].map(|percent| seconds(samples.percentile(percent)));
        let [median, high, least, most] = shown;
        println!("{name}: {median} ...");
        table.row([name.into(), median, high, least, most]);
    };
    kmsg(&mut show);
    at_work(&mut show);
    kmsg_read_along(&mut show);
    program(&mut show);
    rsyslog(&mut show);
    our_own_line(&mut show);
    table.print(&format!("Latency ({KNOCKS} knocks each, {COMMANDS} times `knock` and `nft`)"));
}

/// `/dev/kmsg`, with the things to compare in turns. The SYN arrives at a processor that has nothing else to do, as it
/// mostly does from a network.
fn kmsg(show: &mut impl FnMut(&str, &Samples)) {
    let site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    site.net.server.run(&[
        "nft",
        "table inet bench { set open4 { type ipv4_addr . inet_proto . inet_service; flags dynamic,timeout; }; }",
    ]);
    let by_mark = Site::start(Net::lan(), Log::Kmsg, &format!("{CONFIG}firewall = nftables\n"));
    for site in [&site, &by_mark] {
        take_packets_on_the_second_processor(site);
    }
    let rules = RuleEvents::of(&site.net.server);
    let marks = RuleEvents::of(&by_mark.net.server);
    let (mut knocker, mut marked) = (Knocker::of(&site), Knocker::of(&by_mark));
    let counter_dir = site.net.path("alone");
    std::fs::create_dir(&counter_dir).unwrap();
    write_private(&counter_dir.join("counter"), "0\n");
    let counter = Counter::open(&counter_dir).unwrap();

    let [mut knock, mut mark, mut synced, mut nft] = [const { Samples::new() }; 4];
    for nth in 0..KNOCKS {
        leave_second_processor_alone(true);
        pause(nth);
        let (port, fields) = knocker.knock();
        let start = knocker.send(fields);
        knock.add_time(rules.wait_for(&Key::new(knocker.address, port)) - start);
        pause(nth);
        let (marked_port, fields) = marked.knock();
        let start = marked.send(fields);
        mark.add_time(marks.wait_for(&Key::new(marked.address, marked_port)) - start);
        leave_second_processor_alone(false);

        pause(nth);
        synced.add_time(time(|| counter.write(u32::try_from(nth).unwrap()).unwrap()).0);

        if nth % 2 == 0 {
            pause(nth);
            rules.clear();
            let element = format!(
                "add element inet bench open4 {{ {} . tcp . {port} timeout 15s }}",
                knocker.address
            );
            let (start, mut child) = site
                .net
                .server
                .inside(|| (Instant::now(), Command::new("nft").arg(element).spawn().unwrap()));
            nft.add_time(rules.wait_for(&Key::new(knocker.address, port)) - start);
            assert!(child.wait().unwrap().success());
        }
    }
    show("kmsg: SYN sent to expectation in the kernel", &knock);
    show("kmsg: the same with `firewall = nftables`, to element in its set", &mark);
    show("beside it: a counter written and synced, alone", &synced);
    show("beside it: a bare `nft add element`, start to rule", &nft);
}

/// The same, but the SYN arrives at the processor that its sender is at work on: there the kernel wakes who reads its
/// log at the next tick of its clock and no sooner (`wake_up_klogd`, a lazy `irq_work`).
fn at_work(show: &mut impl FnMut(&str, &Samples)) {
    let site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    let rules = RuleEvents::of(&site.net.server);
    let mut knocker = Knocker::of(&site);
    let mut samples = Samples::new();
    for nth in 0..KNOCKS {
        pause(nth);
        let (port, fields) = knocker.knock();
        let start = knocker.send(fields);
        samples.add_time(rules.wait_for(&Key::new(knocker.address, port)) - start);
    }
    show("kmsg: the same, at a processor at work", &samples);
}

/// The same while another one reads the records too.
fn kmsg_read_along(show: &mut impl FnMut(&str, &Samples)) {
    let site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    let rules = RuleEvents::of(&site.net.server);
    let (line, rule) = watched(&rules, &mut Knocker::of(&site), &Reader::of_kmsg());
    show("kmsg: SYN sent to any sleeping reader woken (the kernel's own delay)", &line);
    show("kmsg: from there to grant", &rule);
}

/// What a person does.
fn program(show: &mut impl FnMut(&str, &Samples)) {
    let site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    let rules = RuleEvents::of(&site.net.server);
    let mut knocker = Knocker::of(&site);
    knocker.hand_over(&site);
    let mut command = Samples::new();
    for nth in 0..COMMANDS {
        pause(nth.into());
        let (port, _) = knocker.knock();
        let (start, mut child) = site.net.client.inside(|| {
            let start = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_knock"));
            command.args(["-p", &port.to_string(), "--profiles"]).arg(site.profiles("client"));
            (start, command.arg(HOST).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        });
        command.add_time(rules.wait_for(&Key::new(knocker.address, port)) - start);
        assert!(child.wait().unwrap().success());
    }
    show("kmsg: the program `knock` started to grant", &command);
}

/// A `kern.log` that a real rsyslog writes.
fn rsyslog(show: &mut impl FnMut(&str, &Samples)) {
    let mut site = Site::start(Net::lan(), Log::File(Framing::Traditional), CONFIG);
    let kern_log = site.rsyslog().kern_log.clone();
    let rules = RuleEvents::of(&site.net.server);
    let (line, rule) = watched(&rules, &mut Knocker::of(&site), &Reader::of_file(&kern_log));
    show("kern.log: SYN sent to line in the file (rsyslog's own delay)", &line);
    show("kern.log: line in the file to grant", &rule);
}

/// Lines that we append ourselves: what the daemon alone takes.
fn our_own_line(show: &mut impl FnMut(&str, &Samples)) {
    let site = Site::prepare(Net::lan(), Log::Kmsg, CONFIG);
    let path = site.net.path("kern.log");
    let _daemon = follow(&site, &path);
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    let rules = RuleEvents::of(&site.net.server);
    let mut knocker = Knocker::of(&site);
    let mut written = Samples::new();
    for nth in 0..KNOCKS {
        pause(nth);
        let (port, fields) = knocker.knock();
        let line = knock_line(&site.net.prefix, knocker.address, KNOCK_PORT, &fields);
        let start = Instant::now();
        log.write_all(line.as_bytes()).unwrap();
        written.add_time(rules.wait_for(&Key::new(knocker.address, port)) - start);
    }
    show("a file: line written to grant", &written);
}

/// Lets the machine come to rest, for a time that ends anywhere between two ticks: what ends at a tick, as much does,
/// would else begin all that follows a pause of fixed length just after one.
pub(crate) fn pause(nth: usize) {
    // The golden ratio's fractions lie evenly, however many there are.
    let part = (nth as f64 * 0.618_033_988_749_895).fract();
    rest(PAUSE + TICK.mul_f64(part));
}

/// Knocks while we read the log too: SYN to line, line to rule.
fn watched(rules: &RuleEvents, knocker: &mut Knocker, reader: &Reader) -> (Samples, Samples) {
    let (mut lines, mut after) = (Samples::new(), Samples::new());
    for nth in 0..KNOCKS {
        pause(nth);
        let (port, fields) = knocker.knock();
        let start = knocker.send(fields);
        let rule = rules.wait_for(&Key::new(knocker.address, port));
        let line = reader.when_read(&format!(" SEQ={} ACK={} ", fields.seq, fields.ack));
        lines.add_time(line - start);
        // Both are woken at once: now and then the daemon is done before we have looked at the clock.
        after.add_time(rule.saturating_duration_since(line));
    }
    (lines, after)
}

/// Another one who sleeps until there is something in the log: a thread, which ends with the program.
struct Reader(Receiver<(Instant, Vec<u8>)>);

impl Reader {
    fn of_kmsg() -> Self {
        let mut options = OpenOptions::new();
        let log = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
        Self::start(log, None)
    }

    fn of_file(path: &Path) -> Self {
        let growth = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        growth.add_watch(path, AddWatchFlags::IN_MODIFY).unwrap();
        Self::start(File::open(path).unwrap(), Some(growth))
    }

    fn start(mut log: File, growth: Option<Inotify>) -> Self {
        log.seek(SeekFrom::End(0)).unwrap();
        let (sender, receiver) = channel();
        thread::spawn(move || {
            loop {
                let fd = growth.as_ref().map_or(log.as_fd(), AsFd::as_fd);
                poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
                let now = Instant::now();
                let _ = growth.as_ref().map(Inotify::read_events);
                let mut piece = [0; 16 * 1024];
                loop {
                    match log.read(&mut piece) {
                        Ok(length @ 1..)
                            if sender.send((now, piece[..length].to_vec())).is_err() =>
                        {
                            return;
                        }
                        // Records that were lost: reading goes on after them.
                        Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                        Ok(1..) => {}
                        _ => break,
                    }
                }
            }
        });
        Self(receiver)
    }

    /// When the text was there to be read. It lies in one piece: lines are written whole.
    fn when_read(&self, text: &str) -> Instant {
        loop {
            let (when, piece) = self.0.recv_timeout(Duration::from_secs(20)).expect("the line");
            if memchr::memmem::find(&piece, text.as_bytes()).is_some() {
                return when;
            }
        }
    }
}
