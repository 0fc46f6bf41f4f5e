//! The trial daemon: this very program, with the host's own `config` and one temporary profile. It exits when we do.
//!
//! Its config directory is below /run, and locked while we run. We remove it; if we are killed, the next trial does.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::signals::{Signals, TICK};
use crate::daemon::trial_plan::{Interrupted, TrialPlan};
use crate::layout::Request;
use crate::layout::classic::{Keys, SealError, seal};
use crate::layout::keys::LayoutKeys;
use crate::profile::Profile;
use crate::profile::create::create;
use crate::syn::SynFields;

/// Where the directories are, and how their names begin.
const RUN_DIR: &str = "/run";
const NAME_PREFIX: &str = "knockknock-try.";
/// The temporary profile.
const PROFILE: &str = "trial";

/// How long a daemon may take to start, and to end when it is told to.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The daemon that runs, and what is needed to knock at it.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    /// The lines that it has written and no one has read yet.
    said: Vec<String>,
    pub(super) knock_port: u16,
    keys: Keys,
    counter: u32,
    _dir: Dir,
}

impl Server {
    /// Starts a daemon whose profile may have `ports`. The inner error says why there is none.
    pub(super) fn start(
        plan: &TrialPlan,
        ports: &[u16],
        knock_port: u16,
        signals: &Signals,
    ) -> Result<Result<Self, String>, Interrupted> {
        let mut server = match Self::launch(plan, ports, knock_port) {
            Ok(server) => server,
            Err(why) => return Ok(Err(why)),
        };
        let ready = server.wait_for(START_TIMEOUT, signals, |line| line == "ready")?;
        Ok(if ready { Ok(server) } else { Err(server.last_words()) })
    }

    fn launch(plan: &TrialPlan, ports: &[u16], knock_port: u16) -> Result<Self, String> {
        let dir = Dir::new().map_err(|why| format!("{RUN_DIR}: {why}"))?;
        let config = plan.config_dir.join("config");
        match fs::copy(&config, dir.path.join("config")) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {why}", config.display()));
            }
            _ => {}
        }
        let (made, _) =
            create(&dir.path, PROFILE, Some(knock_port), &[]).map_err(|why| why.to_string())?;
        let allow: Vec<_> = ports.iter().map(|port| format!("tcp/{port}")).collect();
        let text = format!("[main]\nknock_port = {knock_port}\nallow = {}\n", allow.join(", "));
        fs::write(made.join("config"), text).map_err(|why| why.to_string())?;
        let (profile, _) = Profile::load(&made).map_err(|why| why.to_string())?;
        let LayoutKeys::Classic(keys) = profile.keys else {
            return Err("its profile is not of the classic layout".into());
        };

        let us = std::process::id();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("--config-dir")
            .arg(&dir.path)
            .args(["--instance", &format!("try-{us}"), "--trial-of", &us.to_string()])
            .args(["--log", &plan.log, "--firewall", plan.firewall]);
        if let Some(user) = &plan.user {
            command.args(["--user", user]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|why| format!("/proc/self/exe: {why}"))?;
        let (line, lines) = channel();
        let stderr = child.stderr.take();
        let reader = thread::spawn(move || {
            for text in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
                // It is read to its end, so that the daemon never waits for a reader.
                let _ = text.map(|text| line.send(String::from_utf8_lossy(&text).into_owned()));
            }
        });
        Ok(Self {
            child,
            lines,
            reader: Some(reader),
            said: Vec::new(),
            knock_port,
            keys,
            counter: 0,
            _dir: dir,
        })
    }

    /// Waits until it writes a line that is `wanted`, among those not read yet. False: not in time.
    pub(super) fn wait_for(
        &mut self,
        within: Duration,
        signals: &Signals,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<bool, Interrupted> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            signals.check()?;
            match self.lines.recv_timeout(TICK) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.said.push(line);
                    if found {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// The next knock. None: its counters are used up.
    pub(super) fn next_knock(&mut self, request: Request) -> Option<SynFields> {
        loop {
            let sealed = seal(&self.keys, request, self.counter);
            self.counter = self.counter.checked_add(1)?;
            match sealed {
                Ok(fields) => return Some(fields),
                Err(SealError::ZeroId) => {}
                Err(SealError::Spent) => return None,
            }
        }
    }

    /// The last line that it has written and that was not read before, without the program's name.
    pub(super) fn last_words(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        let last = self.said.drain(..).rfind(|line| line != "ready");
        last.map_or_else(
            || "it said nothing of it".into(),
            |line| line.trim_start_matches("knock-daemon: ").into(),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Told to end, it closes what is open.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(TICK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A directory of root's, which is removed when dropped. While it is in use, it is locked.
#[derive(Debug)]
struct Dir {
    path: PathBuf,
    _lock: File,
}

impl Dir {
    fn new() -> io::Result<Self> {
        remove_stale(Path::new(RUN_DIR))?;
        let path = Path::new(RUN_DIR).join(format!("{NAME_PREFIX}{}", std::process::id()));
        loop {
            DirBuilder::new().mode(0o700).create(&path)?;
            let lock = File::open(&path)?;
            // Before it was locked, another trial may have taken it for a leftover and removed it.
            if lock.try_lock().is_ok()
                && path
                    .metadata()
                    .is_ok_and(|there| lock.metadata().is_ok_and(|ours| there.ino() == ours.ino()))
            {
                return Ok(Self { path, _lock: lock });
            }
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of trials that were killed.
fn remove_stale(run: &Path) -> io::Result<()> {
    for entry in run.read_dir()? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NAME_PREFIX)
            && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok())
        {
            // It is no error if another trial removes one at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_trial_left_goes_and_what_a_living_one_has_stays() {
        let run = tempfile::tempdir().unwrap();
        let [dead, living, other] = ["knockknock-try.1", "knockknock-try.2", "knockknock"]
            .map(|name| run.path().join(name));
        for dir in [&dead, &living, &other] {
            fs::create_dir_all(dir.join("profiles/trial")).unwrap();
        }
        let lock = File::open(&living).unwrap();
        lock.try_lock().unwrap();
        remove_stale(run.path()).unwrap();
        assert_eq!([&dead, &living, &other].map(|dir| dir.exists()), [false, true, true]);
        drop(lock);
        remove_stale(run.path()).unwrap();
        assert!(!living.exists());
    }
}
