//! The kernel's log as one test sees it: the lines that begin with its own prefix, read from `/dev/kmsg`, and a real
//! rsyslogd of its own that writes them to a `kern.log` the way Debian's does.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::net::Net;
use crate::process::{Running, SOON, wait_until};

/// What the kernel's log says about one network, from now on.
///
/// A thread reads along all the time: the kernel's buffer holds a few hundred lines, and other tests flood it.
pub(crate) struct KernelLog {
    heard: Arc<Mutex<Heard>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Heard {
    kmsg: Kmsg,
    lines: Vec<String>,
}

impl KernelLog {
    /// Starts to listen.
    pub(crate) fn of(net: &Net) -> Self {
        Self::of_lines_with(&[&net.prefix])
    }

    /// Starts to listen to lines that begin with one of these.
    pub(crate) fn of_lines_with(prefixes: &[&str]) -> Self {
        let kmsg = Kmsg::from_now_on(prefixes);
        let descriptor = kmsg.file.try_clone().unwrap();
        let heard = Arc::new(Mutex::new(Heard { kmsg, lines: Vec::new() }));
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (heard, over) = (Arc::clone(&heard), Arc::clone(&over));
            move || {
                while !over.load(Ordering::SeqCst) {
                    wait_for_record(&descriptor);
                    heard.lock().unwrap().listen();
                }
            }
        });
        Self { heard, over, thread: Some(thread) }
    }

    /// The lines heard so far: what the firewall wrote, without kmsg's own fields.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut heard = self.heard.lock().unwrap();
        heard.listen();
        heard.lines.clone()
    }

    /// How many of the lines heard so far hold `part`.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line and gives it.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let lines = self.lines();
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            if Instant::now() > end {
                let lost = self.heard.lock().unwrap().kmsg.lost;
                panic!(
                    "no line with {what}; {lost} records of the kernel's log were lost, and these heard: {lines:#?}"
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Heard {
    fn listen(&mut self) {
        while let Some((_, text)) = self.kmsg.next_record() {
            self.lines.push(text);
        }
    }
}

/// What the tables of all daemons that run begin their lines with. Each has a tag of its own behind it.
pub(crate) const DAEMONS: &str = "KNOCK";

/// `/dev/kmsg`, of which it gives the records with certain prefixes only.
struct Kmsg {
    file: File,
    prefixes: Vec<String>,
    next: Option<u64>,
    /// How many records, whosever they were, were overwritten before they could be read.
    lost: u64,
}

impl Kmsg {
    fn from_now_on(prefixes: &[&str]) -> Self {
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        let prefixes = prefixes.iter().map(ToString::to_string).collect();
        Self { file, prefixes, next: None, lost: 0 }
    }

    /// Microseconds since boot, and text. `None` when there is no record for now.
    fn next_record(&mut self) -> Option<(u64, String)> {
        let mut record = [0; 8192];
        loop {
            let length = match self.file.read(&mut record) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // We were overtaken; the next read goes on at the oldest record there is.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => panic!("/dev/kmsg: {error}"),
            };
            let record = String::from_utf8_lossy(&record[..length]);
            let Some((fields, text)) = record.split_once(';') else { continue };
            let field = |number| fields.split(',').nth(number).unwrap().parse::<u64>().unwrap();
            let sequence = field(1);
            self.lost += sequence - self.next.unwrap_or(sequence);
            self.next = Some(sequence + 1);
            if self.prefixes.iter().any(|prefix| text.starts_with(prefix)) {
                return Some((field(2), text.lines().next().unwrap_or_default().to_owned()));
            }
        }
    }
}

/// Waits until there may be something to read, for a tenth of a second at most.
fn wait_for_record(kmsg: &File) {
    let _ = poll(&mut [PollFd::new(kmsg.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100_u8));
}

/// How rsyslog begins its lines.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// `Nov 20 09:39:15 server kernel: [  923.993648] …`
    Traditional,
    /// `2026-11-20T09:39:15.430921+00:00 server kernel: [  923.993648] …`
    Iso,
}

/// A real rsyslogd with Debian's modules, for one network.
///
/// imklog would read `/proc/kmsg`, where each line goes to one reader only: two tests would take each other's lines, and
/// the machine's own rsyslog would lose some. So imklog reads a FIFO here, into which a thread writes this network's
/// lines as `/proc/kmsg` would give them.
pub(crate) struct Rsyslog {
    /// The log file.
    pub(crate) kern_log: PathBuf,
    /// What would be `/dev/log`.
    pub(crate) dev_log: PathBuf,
    configuration: PathBuf,
    program: Option<Running>,
    over: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
}

impl Rsyslog {
    /// Starts it; the log file is there when this returns.
    pub(crate) fn start(net: &Net, framing: Framing) -> Self {
        let dir = net.path("rsyslog");
        fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        let template = match framing {
            Framing::Traditional => "RSYSLOG_TraditionalFileFormat",
            Framing::Iso => "RSYSLOG_FileFormat",
        };
        let text = format!(
            r#"global(workDirectory="{dir}")
               module(load="imklog" logPath="{dir}/proc-kmsg")
               module(load="imuxsock" SysSock.Use="off")
               input(type="imuxsock" Socket="{dir}/dev-log")
               kern.* action(type="omfile" file="{dir}/kern.log" template="{template}")
            "#,
            dir = dir.display(),
        );
        fs::write(path("rsyslog.conf"), text).unwrap();
        fs::write(path("kern.log"), "").unwrap();
        mkfifo(&path("proc-kmsg"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        // Opened for both, so that neither end ever sees the other one gone.
        let fifo = OpenOptions::new().read(true).write(true).open(path("proc-kmsg")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let pump = thread::spawn({
            let (kmsg, over) = (Kmsg::from_now_on(&[&net.prefix, DAEMONS]), Arc::clone(&over));
            move || pump(kmsg, fifo, &over)
        });
        let mut rsyslog = Self {
            kern_log: path("kern.log"),
            dev_log: path("dev-log"),
            configuration: path("rsyslog.conf"),
            program: None,
            over,
            pump: Some(pump),
        };
        rsyslog.resume();
        rsyslog
    }

    /// Stops rsyslogd; lines that come meanwhile wait, as in the kernel's own buffer.
    pub(crate) fn pause(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.signal(nix::sys::signal::Signal::SIGTERM);
            program.wait_for_end();
        }
    }

    /// Starts rsyslogd again.
    pub(crate) fn resume(&mut self) {
        let pid_file = self.configuration.with_extension("pid");
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(&self.configuration).arg("-i").arg(pid_file);
        let mut program = Running::start(&mut command);
        wait_until(SOON, "rsyslogd's socket", || {
            assert!(program.is_running(), "rsyslogd ended: {:?}", program.lines());
            std::os::unix::net::UnixDatagram::unbound().unwrap().connect(&self.dev_log).is_ok()
        });
        self.program = Some(program);
    }

    /// Makes it open its log file anew, as logrotate does.
    pub(crate) fn reopen(&self) {
        self.program.as_ref().unwrap().signal(nix::sys::signal::Signal::SIGHUP);
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Hands this network's records on, in the form of `/proc/kmsg`.
fn pump(mut kmsg: Kmsg, mut fifo: File, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        wait_for_record(&kmsg.file);
        while let Some((microseconds, text)) = kmsg.next_record() {
            let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
            fifo.write_all(format!("<7>[{seconds:>5}.{rest:06}] {text}\n").as_bytes()).unwrap();
        }
    }
    if kmsg.lost > 0 {
        eprintln!(
            "{} records of the kernel's log were overwritten before rsyslog had them",
            kmsg.lost
        );
    }
}
