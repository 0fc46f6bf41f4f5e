//! An ordinary user of a test host: a home with a profile, programs that have the file capability and nothing else.
//! Also a real sshd for them to get into. Owns directories of the test network's own only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::net::{Family, Host};
use crate::process::Running;
use crate::site::{HOST, Site};

/// `nobody`: who the user is for the kernel.
const UID: u32 = 65_534;

/// Somebody with a copy of one of the site's profiles.
pub(crate) struct User {
    home: PathBuf,
    bin: PathBuf,
}

impl User {
    /// A user on the client's side, with the client's profile for the server's address of `family`.
    pub(crate) fn new(site: &Site, family: Family) -> Self {
        Self::with_address(site, &site.net.server.address(family).to_string())
    }

    /// The same, whose profile names another `address`.
    pub(crate) fn with_address(site: &Site, address: &str) -> Self {
        let (home, bin) = (site.net.path("user"), site.net.path("user-bin"));
        let _ = fs::remove_dir_all(&home);
        let _ = fs::remove_dir_all(&bin);
        let user = Self { home, bin };
        fs::create_dir_all(&user.bin).unwrap();
        for program in [env!("CARGO_BIN_EXE_knock"), env!("CARGO_BIN_EXE_knock-proxy")] {
            let installed = user.bin.join(Path::new(program).file_name().unwrap());
            fs::copy(program, &installed).unwrap();
            let set = Command::new("setcap").arg("cap_net_raw+ep").arg(installed).status();
            assert!(set.unwrap().success());
        }
        let profile = user.profile();
        fs::create_dir_all(&profile).unwrap();
        for file in ["cipher.key", "mac.key", "counter", "config"] {
            fs::copy(site.profiles("client").join(HOST).join(file), profile.join(file)).unwrap();
        }
        user.configure(&format!("address = {address:?}\n"));
        user.own();
        user
    }

    /// The directory of their profile of the server.
    pub(crate) fn profile(&self) -> PathBuf {
        self.home.join(".knockknock").join(HOST)
    }

    /// Adds lines to the profile's config.
    pub(crate) fn configure(&self, lines: &str) {
        let mut config =
            fs::File::options().append(true).open(self.profile().join("config")).unwrap();
        config.write_all(lines.as_bytes()).unwrap();
    }

    /// Takes the file capability away from their programs: what others get who only copied them.
    pub(crate) fn without_capability(&self) {
        for program in self.bin.read_dir().unwrap() {
            let path = program.unwrap().path();
            assert!(Command::new("setcap").arg("-r").arg(path).status().unwrap().success());
        }
    }

    /// The counter that their profile stands at.
    pub(crate) fn counter(&self) -> u32 {
        fs::read_to_string(self.profile().join("counter")).unwrap().trim().parse().unwrap()
    }

    /// Puts a file into their home.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.own();
        path
    }

    /// All in their home is theirs.
    pub(crate) fn own(&self) {
        let mut left = vec![self.home.clone()];
        while let Some(path) = left.pop() {
            chown(&path, Some(UID), Some(UID)).unwrap();
            if path.is_dir() {
                left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }

    /// A command run by them on `host`.
    pub(crate) fn command(&self, host: &Host, program: &str) -> Command {
        let mut command = host.command("setpriv");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.display());
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
            .arg(program)
            .env("HOME", &self.home)
            .env("PATH", path);
        command
    }

    /// Runs a shell line as them on `host`.
    pub(crate) fn sh(&self, host: &Host, line: &str) -> Output {
        self.command(host, "sh").args(["-c", line]).output().unwrap()
    }

    /// Runs `knock` with `arguments` as them on `host`, `input` on its standard input.
    pub(crate) fn knock(&self, host: &Host, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(host, "knock");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut knock = command.spawn().unwrap();
        // A program that has ended already does not read it.
        let _ = knock.stdin.take().unwrap().write_all(input.as_bytes());
        knock.wait_with_output().unwrap()
    }

    /// Runs `knock` as them on the client's side with `hosts` for `/etc/hosts`, which nobody else sees.
    pub(crate) fn with_hosts(&self, site: &Site, hosts: &Path, arguments: &[&str]) -> Output {
        self.with_hosts_command(site, hosts, arguments).output().unwrap()
    }

    /// The command that does that.
    pub(crate) fn with_hosts_command(
        &self,
        site: &Site,
        hosts: &Path,
        arguments: &[&str],
    ) -> Command {
        let mut command = self.program_with_hosts(site, hosts, "knock");
        command.args(arguments);
        command
    }

    /// The same for another program of theirs, without its arguments.
    pub(crate) fn program_with_hosts(&self, site: &Site, hosts: &Path, program: &str) -> Command {
        let line = format!(
            "mount --bind {} /etc/hosts && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"",
            hosts.display()
        );
        let mut command = site.net.client.command("sh");
        command.args(["-c", &line, "sh"]).arg(self.bin.join(program));
        command.env("HOME", &self.home);
        command
    }
}

/// Where the same sshd listens too, for a firewall that leaves this port open: what there is to compare with.
pub(crate) const OPEN_PORT: u16 = 2200;

/// A real sshd on port 22 of the site's server, which the user's key opens.
pub(crate) struct Sshd {
    _running: Running,
    /// The user's `ssh_config`: the server by its name with the README's `ProxyCommand`, `by-exec` with
    /// its `Match exec`, `direct` and, on the open port, `plain` with neither.
    pub(crate) config: PathBuf,
}

impl Sshd {
    pub(crate) fn start(site: &Site, user: &User, family: Family) -> Self {
        let dir = site.net.path("sshd");
        fs::create_dir_all(&dir).unwrap();
        // sshd's own, which its package makes at boot.
        fs::create_dir_all("/run/sshd").unwrap();
        let host_key = keygen(&dir, "host");
        let user_key = keygen(&dir, "user");
        let public = fs::read_to_string(user_key.with_extension("pub")).unwrap();
        fs::write(dir.join("authorized"), public).unwrap();
        let config = format!(
            "Port 22\nPort {OPEN_PORT}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nUseDNS no\nMaxStartups 100\n",
            host_key.display(),
            dir.join("authorized").display()
        );
        fs::write(dir.join("config"), config).unwrap();
        let mut command = site.net.server.command("/usr/sbin/sshd");
        let mut running = Running::start(command.args(["-D", "-e", "-f"]).arg(dir.join("config")));
        running.wait_for_line("listening", |line| line.contains("Server listening"));

        let identity = user.write("id", &fs::read_to_string(user_key).unwrap());
        let config = format!(
            "Host *\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  \
             UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  BatchMode yes\n\
             Host {HOST}\n  ProxyCommand knock -W %h:%p\n\
             Host plain by-exec direct\n  HostName {}\n\
             Host plain\n  Port {OPEN_PORT}\n\
             Match originalhost by-exec exec \"knock -p 22 {HOST}\"\n",
            identity.display(),
            site.net.server.address(family)
        );
        Self { _running: running, config: user.write("ssh_config", &config) }
    }
}

fn keygen(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    path
}

/// What a program said on standard error, for the message of an assertion.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a program wrote to standard output.
pub(crate) fn wrote(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
