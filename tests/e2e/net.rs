//! A small network on one machine: hosts are network namespaces, joined by veth pairs. Owns their names, addresses and
//! their end; touches no interface, route or rule outside namespaces it made.
//!
//! ```text
//! Net::lan()                                    Net::nat()
//!
//!        switch (a bridge)                        switch (two bridges)
//!       ┌──────┼───────┐                          ┌──────┐      ┌──────┬──────┐
//!     server client  other                      server router·router client  other
//!
//! server 10.66.1.1  fd66:0:0:1::1               the same server; 10.67.1.2, fd67:0:0:2::2 and so on behind
//! client 10.66.1.2  fd66:0:0:2::2               the router, which puts its own address (10.66.1.9,
//! other  10.66.1.3  fd66:0:0:3::3               fd66:0:0:9::9) into all they send
//! ```
//!
//! Every host has a /64 of its own inside one on-link /48, because firewalls count IPv6 sources by /64.
//! The hosts' only interface but `lo` is `eth0`.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Machine wide: whether the kernel logs what firewalls in network namespaces ask it to log.
const NF_LOG_ALL_NETNS: &str = "/proc/sys/net/netfilter/nf_log_all_netns";

/// What every namespace of ours is called first; the process id and a number follow.
const NAMES_BEGIN: &str = "kk-";

/// The router's own addresses on the inside of [`Net::nat`].
const INSIDE_ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 67, 1, 1);
const INSIDE_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0, 0, 1, 0, 0, 0, 1);

/// How many networks this process has made: part of their names.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Both families, for tests that say the same of each.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Hosts joined by a network. Dropping it ends what still runs in them and removes them.
pub(crate) struct Net {
    /// Where the firewall and the daemon are.
    pub(crate) server: Host,
    /// Whoever knocks.
    pub(crate) client: Host,
    /// Somebody else, with another address.
    pub(crate) other: Host,
    /// The address translator of [`Net::nat`].
    pub(crate) router: Option<Host>,
    /// Where their cables end: the port of host number 1 is `lan1`.
    pub(crate) switch: Host,
    /// What this network's firewall puts in front of its log lines (at most 29 bytes, iptables' limit): the kernel log is
    /// the machine's, and other tests write to it too.
    pub(crate) prefix: String,
    /// A directory of this network's own, removed with it.
    dir: tempfile::TempDir,
}

/// One network namespace.
pub(crate) struct Host {
    namespace: String,
    /// Its IPv4 address on `eth0`.
    pub(crate) ipv4: Ipv4Addr,
    /// Its global IPv6 address on `eth0`.
    pub(crate) ipv6: Ipv6Addr,
}

impl Net {
    /// Three hosts on one Ethernet.
    pub(crate) fn lan() -> Self {
        let net = Self::hosts(None);
        net.switch.ip("link add lan type bridge\nlink set lan up\n");
        for host in [&net.server, &net.client, &net.other] {
            host.plug_into(&net.switch, "lan", "eth0");
        }
        net
    }

    /// The client and the other host behind a router that translates their addresses, IPv4 and IPv6.
    pub(crate) fn nat() -> Self {
        let mut net = Self::hosts(Some(9));
        for (host, number) in [(&mut net.client, 2), (&mut net.other, 3)] {
            host.ipv4 = Ipv4Addr::new(10, 67, 1, number);
            host.ipv6 = Ipv6Addr::new(0xfd67, 0, 0, number.into(), 0, 0, 0, number.into());
        }
        let router = net.router.as_ref().unwrap();
        for bridge in ["outside", "inside"] {
            net.switch.ip(&format!("link add {bridge} type bridge\nlink set {bridge} up\n"));
        }
        net.server.plug_into(&net.switch, "outside", "eth0");
        router.plug_into(&net.switch, "outside", "eth0");
        router.cable(&net.switch, "inside", "eth1", INSIDE_ROUTER_V4, INSIDE_ROUTER_V6);
        router.inside(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        router.nft(
            "table inet nat { chain out { type nat hook postrouting priority srcnat; oifname eth0 masquerade; }; }",
        );
        for host in [&net.client, &net.other] {
            host.plug_into(&net.switch, "inside", "eth0");
            host.ip(&format!(
                "route add default via {INSIDE_ROUTER_V4}\nroute add ::/0 via {INSIDE_ROUTER_V6}\n"
            ));
        }
        net
    }

    fn hosts(router: Option<u8>) -> Self {
        assert!(
            geteuid().is_root(),
            "end-to-end tests make network namespaces, which takes root: sudo scripts/test.sh"
        );
        if let Err(problem) = kernel_logs_namespaces(Path::new(NF_LOG_ALL_NETNS)) {
            panic!("{problem}");
        }
        remove_leftovers();
        let id = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let host = |role: &str, number| Host::new(format!("{NAMES_BEGIN}{id}-{role}"), number);
        Self {
            server: host("server", 1),
            client: host("client", 2),
            other: host("other", 3),
            router: router.map(|number| host("router", number)),
            switch: host("switch", 0),
            prefix: format!("REJECT-{id} "),
            dir: tempfile::Builder::new().prefix("knockknock-e2e-").tempdir().unwrap(),
        }
    }

    /// A host behind the server, which forwards for it: a container on the server's interface `kk-bridge`.
    pub(crate) fn container(&self) -> Host {
        let mut container = Host::new(self.server.namespace.replace("server", "container"), 2);
        container.ipv4 = Ipv4Addr::new(10, 68, 1, 2);
        container.ipv6 = Ipv6Addr::new(0xfd68, 0, 0, 0, 0, 0, 0, 2);
        let (ipv4, ipv6) = (container.ipv4, container.ipv6);
        container.ip(&format!(
            "link add eth0 type veth peer name kk-bridge netns {}\naddress add {ipv4}/24 dev eth0\n\
             address add {ipv6}/64 dev eth0 nodad\nlink set eth0 up\n",
            self.server.namespace
        ));
        self.server.ip(
            "address add 10.68.1.1/24 dev kk-bridge\naddress add fd68::1/64 dev kk-bridge nodad\n\
             link set kk-bridge up\n",
        );
        container.ip("route add default via 10.68.1.1\nroute add ::/0 via fd68::1\n");
        self.server.inside(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        container
    }

    /// A path in this network's own directory. Any user can pass through it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        self.dir.path().join(name)
    }
}

impl Host {
    fn new(namespace: String, number: u8) -> Self {
        ip(&["netns", "add", &namespace]);
        let host = Self {
            namespace,
            ipv4: Ipv4Addr::new(10, 66, 1, number),
            ipv6: Ipv6Addr::new(0xfd66, 0, 0, number.into(), 0, 0, 0, number.into()),
        };
        host.inside(|| {
            // An address that is still being checked for duplicates answers nothing for a second or two.
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").unwrap();
        });
        host.ip("link set lo up\n");
        host
    }

    fn plug_into(&self, switch: &Self, bridge: &str, interface: &str) {
        self.cable(switch, bridge, interface, self.ipv4, self.ipv6);
    }

    /// A cable from a new `interface` of this host to a bridge of the switch, and addresses on it.
    fn cable(&self, switch: &Self, bridge: &str, interface: &str, ipv4: Ipv4Addr, ipv6: Ipv6Addr) {
        let port = format!("{bridge}{}", ipv4.octets()[3]);
        self.ip(&format!(
            "link add {interface} type veth peer name {port} netns {}\n\
             address add {ipv4}/24 dev {interface}\naddress add {ipv6}/48 dev {interface} nodad\n\
             link set {interface} up\n",
            switch.namespace
        ));
        switch.ip(&format!("link set {port} master {bridge}\nlink set {port} up\n"));
    }

    /// Runs lines of `ip -batch` in this namespace.
    pub(crate) fn ip(&self, lines: &str) {
        feed(Command::new("ip").args(["-n", &self.namespace, "-batch", "-"]), lines);
    }

    /// Loads a ruleset into this namespace.
    pub(crate) fn nft(&self, ruleset: &str) {
        feed(self.command("nft").args(["-f", "-"]), ruleset);
    }

    /// This host's address of a family.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4.into(),
            Family::V6 => self.ipv6.into(),
        }
    }

    /// A command to be run on this host. The process it starts is the program itself (`ip` replaces itself by it).
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command that has to work and gives what it printed.
    pub(crate) fn run(&self, argv: &[&str]) -> String {
        let output = self.command(argv[0]).args(&argv[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{argv:?}: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Runs `work` on a thread that lives in this namespace. Sockets it makes stay there and may be taken outside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace)).unwrap();
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The processes that run in this namespace.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let listed = Command::new("ip").args(["netns", "pids", &self.namespace]).output().unwrap();
        let pids = String::from_utf8(listed.stdout).unwrap();
        pids.split_whitespace()
            .map(|pid| Pid::from_raw(pid.parse().unwrap()))
            .filter(|pid| *pid != Pid::this())
            .collect()
    }

    fn remove(&self) {
        // Whatever still runs there was started by a test: nobody else knows the namespace.
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.remove();
    }
}

fn kernel_logs_namespaces(setting: &Path) -> Result<(), String> {
    match fs::read_to_string(setting) {
        Ok(value) if value.trim() == "1" => Ok(()),
        Ok(_) => Err(format!(
            "{} is not 1: the kernel keeps to itself what firewalls in network namespaces log, and the daemon under \
             test would hear nothing; run the tests with sudo scripts/test.sh, which sets it for the run, or set it \
             with: sysctl net.netfilter.nf_log_all_netns=1",
            setting.display()
        )),
        Err(error) => {
            Err(format!("{}: {error}; has this kernel netfilter logging?", setting.display()))
        }
    }
}

/// Removes networks of test processes that were killed before they could.
fn remove_leftovers() {
    let Ok(names) = fs::read_dir("/run/netns") else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(NAMES_BEGIN).and_then(|rest| rest.split('-').next());
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            Host { namespace: name, ipv4: Ipv4Addr::UNSPECIFIED, ipv6: Ipv6Addr::UNSPECIFIED }
                .remove();
        }
    }
}

fn ip(arguments: &[&str]) {
    feed(Command::new("ip").args(arguments), "");
}

/// Runs a command that has to work, with `text` as its standard input.
fn feed(command: &mut Command, text: &str) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} said {said:?} to:\n{text}");
}

#[test]
fn a_kernel_that_keeps_namespaces_lines_to_itself_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let setting = dir.path().join("nf_log_all_netns");
    fs::write(&setting, "0\n").unwrap();
    assert!(kernel_logs_namespaces(&setting).unwrap_err().contains("sudo scripts/test.sh"));
    fs::write(&setting, "1\n").unwrap();
    assert_eq!(kernel_logs_namespaces(&setting), Ok(()));
    assert!(kernel_logs_namespaces(&dir.path().join("absent")).unwrap_err().contains("absent"));
}
