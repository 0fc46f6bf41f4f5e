//! A real rsyslog that writes a log in a test's directory, fed through a socket there. It sees nothing of the machine's
//! own log.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{cannot_test, line, wait_until};

const PROGRAM: &str = "/usr/sbin/rsyslogd";

pub(crate) struct Rsyslog {
    directory: PathBuf,
    running: Option<Child>,
    sender: UnixDatagram,
}

impl Rsyslog {
    /// `None` where it is not installed.
    pub(crate) fn start(log: &Path) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            cannot_test("rsyslog is not installed");
            return None;
        }
        let directory = log.parent()?.join("rsyslog");
        std::fs::create_dir(&directory).unwrap();
        let configuration = format!(
            "global(workDirectory=\"{directory}\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{directory}/socket\" RateLimit.Interval=\"0\" Unlink=\"on\")\n\
             template(name=\"as-sent\" type=\"string\" string=\"%rawmsg-after-pri%\\n\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"as-sent\")\n",
            log.display(),
            directory = directory.display()
        );
        std::fs::write(directory.join("conf"), configuration).unwrap();
        let mut rsyslog =
            Self { directory, running: None, sender: UnixDatagram::unbound().unwrap() };
        rsyslog.run();
        Some(rsyslog)
    }

    fn run(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.arg("-n").arg("-f").arg(self.directory.join("conf"));
        command.arg("-i").arg(self.pid_file());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn().unwrap());
        let socket = self.directory.join("socket");
        wait_until("rsyslog listens", || self.sender.connect(&socket).is_ok());
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    pub(crate) fn send(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let message = format!("<4>{}", line(number).trim_end_matches('\n'));
            self.sender.send(message.as_bytes()).unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.end();
        self.run();
    }

    fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let pid = Pid::from_raw(running.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = running.wait();
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.end();
    }
}
