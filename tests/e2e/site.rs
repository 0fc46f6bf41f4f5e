//! A server with a closed front door, and people with profiles: the real programs, set up as their README says, in a
//! test network. Owns directories of its own only.

use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::Signal;

use crate::connection::Reach;
use crate::kernel_log::{Framing, Rsyslog};
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{Running, SOON, wait_until};

/// The knock port of the client's profile.
pub(crate) const KNOCK_PORT: u16 = 666;
/// The knock port of the other host's profile.
pub(crate) const OTHER_KNOCK_PORT: u16 = 667;
/// The profile's directory on the side of those who knock.
pub(crate) const HOST: &str = "server.test";

/// Where the daemon under test reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    /// `/dev/kmsg`.
    Kmsg,
    /// A `kern.log` that a real rsyslog writes.
    File(Framing),
}

/// A server, its firewall, and two people with a profile each.
pub(crate) struct Site {
    daemon: Option<Running>,
    rsyslog: Option<Rsyslog>,
    pub(crate) net: Net,
}

impl Site {
    /// Firewall up, profiles made and copied; no daemon yet. `config` goes below `[main]`.
    pub(crate) fn prepare(net: Net, log: Log, config: &str) -> Self {
        let rsyslog = match log {
            Log::Kmsg => None,
            Log::File(framing) => Some(Rsyslog::start(&net, framing)),
        };
        let site = Self { daemon: None, rsyslog, net };
        for (name, port) in [("client", KNOCK_PORT), ("other", OTHER_KNOCK_PORT)] {
            let made = site.genprofile(name, port);
            assert!(made.status.success(), "{made:?}");
            let copy = site.profiles(name).join(HOST);
            fs::create_dir_all(site.profiles(name)).unwrap();
            let copied =
                Command::new("cp").arg("-rp").args([&site.profile(name), &copy]).status().unwrap();
            assert!(copied.success());
        }
        let config = format!("[main]\nlog_prefix = {:?}\n{config}", site.net.prefix);
        fs::write(site.config_dir().join("config"), config).unwrap();
        site.minimal_firewall(&[]);
        site
    }

    /// All of it, and the daemon watches.
    pub(crate) fn start(net: Net, log: Log, config: &str) -> Self {
        let mut site = Self::prepare(net, log, config);
        site.start_daemon();
        site
    }

    /// `/etc/knockknock.d` of this server.
    pub(crate) fn config_dir(&self) -> PathBuf {
        self.net.path("knockknock.d")
    }

    /// A profile's directory on the server.
    pub(crate) fn profile(&self, name: &str) -> PathBuf {
        self.config_dir().join("profiles").join(name)
    }

    /// `~/.knockknock` of whoever has the profile `name`.
    pub(crate) fn profiles(&self, name: &str) -> PathBuf {
        self.net.path(&format!("home-{name}"))
    }

    /// The next counter of a profile, on the server and at the client.
    pub(crate) fn counters(&self, name: &str) -> [String; 2] {
        [self.profile(name), self.profiles(name).join(HOST)]
            .map(|dir| fs::read_to_string(dir.join("counter")).unwrap().trim().to_owned())
    }

    /// Runs `knock-genprofile`; the tests ask for many ports.
    pub(crate) fn genprofile(&self, name: &str, port: u16) -> Output {
        Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
            .args(["--config-dir".as_ref(), self.config_dir().as_os_str()])
            .args(["--allow", "any", name, &port.to_string()])
            .output()
            .unwrap()
    }

    /// More profiles, with knock ports from `first_port` on; thousands of them are soon made this way. `guest-PORT` is
    /// the name of each.
    pub(crate) fn add_profiles(&self, first_port: u16, count: u16) {
        for port in first_port..first_port + count {
            let dir = self.profile(&format!("guest-{port}"));
            DirBuilder::new().mode(0o700).create(&dir).unwrap();
            for (file, letter) in [("cipher.key", 'c'), ("mac.key", 'm')] {
                let key = format!("{letter}, of port {port:05}");
                write_private(&dir.join(file), BASE64_STANDARD.encode(key) + "\n");
            }
            write_private(&dir.join("config"), format!("[main]\nknock_port = {port}\n"));
            write_private(&dir.join("counter"), "0\n");
        }
    }

    /// Closes the server, with a firewall that logs refused SYNs and accepts the daemon's mark. `more`: `--allow tcp/PORT`,
    /// `--knock-port PORT`, `--iptables`.
    pub(crate) fn minimal_firewall(&self, more: &[&str]) {
        let (mut knocked, mut allowed, mut nft) = (Vec::new(), Vec::new(), true);
        for profile in fs::read_dir(self.config_dir().join("profiles")).unwrap() {
            let config = fs::read_to_string(profile.unwrap().path().join("config")).unwrap();
            let (_, port) = config.split_once("knock_port = ").unwrap();
            knocked.push(port.lines().next().unwrap().to_owned());
        }
        let mut more = more.iter();
        while let Some(option) = more.next() {
            match *option {
                "--allow" => allowed.push(more.next().unwrap().replace("tcp/", "")),
                "--knock-port" => knocked.push((*more.next().unwrap()).to_owned()),
                "--iptables" => nft = false,
                other => panic!("{other}"),
            }
        }
        knocked.sort();
        knocked.dedup();
        if nft {
            self.net.server.nft(&logging_firewall(&self.net.prefix, &knocked, &allowed));
        } else {
            let script = logging_iptables(&self.net.prefix, &knocked, &allowed);
            self.net.server.run(&["sh", "-ec", &script]);
        }
    }

    /// The command that starts the daemon.
    pub(crate) fn daemon_command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_knock-daemon")))
    }

    /// The same, of another build.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = self.net.server.command(program);
        command.arg("--config-dir").arg(self.config_dir()).args(["--user", "nobody", "--log"]);
        match &self.rsyslog {
            None => command.arg("kmsg"),
            Some(rsyslog) => command.arg(&rsyslog.kern_log),
        };
        command
    }

    /// Starts the daemon and waits until it watches.
    pub(crate) fn start_daemon(&mut self) {
        let command = self.daemon_command();
        self.start_as(command);
    }

    /// Starts another build of the daemon.
    pub(crate) fn start_as(&mut self, mut command: Command) {
        let mut daemon = Running::start(&mut command);
        daemon.wait_for_line("ready", |line| line == "ready");
        self.daemon = Some(daemon);
    }

    /// Starts the daemon where it has a lot to do before it watches, in a build that is not optimised.
    pub(crate) fn start_daemon_within(&mut self, within: Duration) {
        let daemon = Running::start(&mut self.daemon_command());
        wait_until(within, "ready", || daemon.lines().iter().any(|line| line == "ready"));
        self.daemon = Some(daemon);
    }

    /// The daemon that runs.
    pub(crate) fn daemon(&mut self) -> &mut Running {
        self.daemon.as_mut().expect("the daemon was started")
    }

    /// The rsyslog that runs.
    pub(crate) fn rsyslog(&mut self) -> &mut Rsyslog {
        self.rsyslog.as_mut().expect("the log is a file")
    }

    /// Tells the daemon to end, and waits until it has.
    pub(crate) fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.signal(Signal::SIGTERM);
        let status = daemon.wait_for_end();
        assert!(status.success(), "{status:?}: {:#?}", daemon.lines());
    }

    /// Waits for a line of the daemon.
    pub(crate) fn wait_for(&mut self, what: &str) -> String {
        self.daemon().wait_for_line(what, |line| line.contains(what))
    }

    /// How many lines of the daemon say that something was opened.
    pub(crate) fn opened(&mut self) -> usize {
        self.daemon().lines().iter().filter(|line| line.contains(": opened ")).count()
    }

    /// How many connections the daemon has shut the door behind.
    pub(crate) fn came_in(&mut self) -> usize {
        self.daemon().lines().iter().filter(|line| line.contains(": closed behind it")).count()
    }

    /// What the lines of the daemon's own table have behind their first word.
    pub(crate) fn tag(&self) -> String {
        let table = self.net.server.run(&["nft", "list", "chain", "inet", "knockknock", "knocks"]);
        table.split("\"KNOCK ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }

    /// Runs `scripts/minimal-firewall.sh` on the server; its choice is confirmed at once.
    pub(crate) fn script(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/minimal-firewall.sh");
        let mut command = self.net.server.command(script);
        command.arg("--config-dir").arg(self.config_dir()).args(["--confirm", "0", "--run-dir"]);
        command.arg(self.net.path("firewall")).args(arguments);
        let output = command.env_remove("SSH_CONNECTION").env_remove("SSH_CLIENT").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The command that knocks from `host` with the profile `name` at the server's address of `family`, and does not
    /// wait: what comes of it is for the test to see.
    pub(crate) fn knock_command(
        &self,
        host: &Host,
        name: &str,
        family: Family,
        port: u16,
    ) -> Command {
        let config = self.profiles(name).join(HOST).join("config");
        let knock_port = if name == "other" { OTHER_KNOCK_PORT } else { KNOCK_PORT };
        let address = self.net.server.address(family);
        fs::write(config, format!("[main]\nknock_port = {knock_port}\naddress = \"{address}\"\n"))
            .unwrap();
        let mut command = host.command(env!("CARGO_BIN_EXE_knock"));
        command
            .args(["--wait", "0", "-p", &port.to_string(), "--profiles"])
            .arg(self.profiles(name))
            .arg(HOST);
        command
    }

    /// Knocks as the client, and does not look what comes of it.
    pub(crate) fn send_knock(&self, family: Family, port: u16) {
        let output = self.knock_command(&self.net.client, "client", family, port).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Knocks as the client and waits until the daemon has opened.
    pub(crate) fn knock(&mut self, family: Family, port: u16) {
        let before = self.opened();
        self.send_knock(family, port);
        let daemon = self.daemon.as_mut().expect("the daemon was started");
        let opened =
            |lines: &[String]| lines.iter().filter(|line| line.contains(": opened ")).count();
        wait_until(SOON, "a grant", || opened(&daemon.lines()) > before);
    }

    /// Whether the client reaches a port of the server now.
    pub(crate) fn reach(&self, family: Family, port: u16) -> Reach {
        self.net.client.can_connect(self.net.server.address(family), port, SOON)
    }

    /// What is open: the expectations, as the kernel lists them.
    pub(crate) fn grants(&self) -> Vec<String> {
        // In one read: the next one would begin by the place in a list that all networks share, which other tests move.
        let mut listed = [0; 4096];
        let length = self.net.server.inside(|| {
            let mut file = File::open("/proc/thread-self/net/nf_conntrack_expect").unwrap();
            file.read(&mut listed).unwrap()
        });
        let listed = str::from_utf8(&listed[..length]).unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    /// Waits until nothing is open any more, which must be no later than `within`.
    pub(crate) fn wait_until_shut(&self, within: Duration) {
        let start = Instant::now();
        wait_until(within, "every grant gone", || self.grants().is_empty());
        assert!(start.elapsed() <= within);
    }
}

/// What one source may log of its knocks, and everybody together of other SYNs: at once, then for each second.
pub(crate) const LOGGED_AT_ONCE: u64 = 200 + 8;
pub(crate) const LOGGED_A_SECOND: u64 = 4 + 3;

/// An nftables firewall as the daemon's nftables back end asks for: it logs what it refuses, and accepts a mark.
fn logging_firewall(prefix: &str, knocked: &[String], allowed: &[String]) -> String {
    let log =
        format!("log prefix \"{prefix}\" level debug flags tcp sequence,options flags ip options");
    let knocked = knocked.join(", ");
    let allowed = if allowed.is_empty() {
        String::new()
    } else {
        format!("tcp dport {{ {} }} accept", allowed.join(", "))
    };
    format!(
        "table inet closed
        delete table inet closed
        table inet closed {{
            set knocking4 {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
            set knocking6 {{ type ipv6_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                ct state invalid drop
                iif lo accept
                meta mark & 0x20000000 != 0 accept
                meta l4proto {{ icmp, icmpv6 }} accept
                {allowed}
                tcp dport {{ {knocked} }} tcp flags & (fin | syn | rst | ack) == syn goto knock
                tcp flags & (fin | syn | rst | ack) == syn limit rate 3/second burst 8 packets {log}
                goto refuse
            }}
            chain knock {{
                update @knocking4 {{ ip saddr limit rate over 4/second burst 200 packets }} goto refuse
                update @knocking6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over 4/second burst 200 packets }} goto refuse
                limit rate 200/second burst 300 packets {log}
                goto refuse
            }}
            chain refuse {{
                meta l4proto tcp reject with tcp reset
                reject with icmpx type port-unreachable
            }}
        }}"
    )
}

/// The same with iptables, without limits.
fn logging_iptables(prefix: &str, knocked: &[String], allowed: &[String]) -> String {
    let allowed: Vec<String> = allowed
        .iter()
        .map(|port| format!("$t -A INPUT -p tcp --dport {port} -j ACCEPT\n"))
        .collect();
    let knocked: Vec<String> = knocked
        .iter()
        .map(|port| {
            format!(
                "$t -A INPUT -p tcp --syn --dport {port} -j LOG --log-level debug --log-prefix '{prefix}' \
                 --log-tcp-sequence --log-tcp-options --log-ip-options\n"
            )
        })
        .collect();
    let lines = [allowed, knocked].concat().concat();
    format!(
        "for t in iptables ip6tables; do
            $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            $t -A INPUT -i lo -j ACCEPT
            $t -A INPUT -m mark --mark 0x20000000/0x20000000 -j ACCEPT
            {lines}$t -A INPUT -p tcp -j REJECT --reject-with tcp-reset
        done"
    )
}

/// Gives a file to the test's own eyes only.
pub(crate) fn write_private(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Each family with each log.
pub(crate) fn logs() -> [Log; 2] {
    [Log::Kmsg, Log::File(Framing::Traditional)]
}

/// Runs `check` for each log and family, on a site of its own each log.
pub(crate) fn everywhere(config: &str, mut check: impl FnMut(&mut Site, Family)) {
    for log in logs() {
        // With a list of what may be asked for, each knock is expected by its number; without, the knock port is logged.
        let allow = if matches!(log, Log::Kmsg) { "allow = tcp/2222, tcp/2223\n" } else { "" };
        let mut site = Site::start(Net::lan(), log, &format!("{config}{allow}"));
        for family in FAMILIES {
            check(&mut site, family);
        }
    }
}
