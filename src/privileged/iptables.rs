//! The iptables back end, for hosts without `nf_tables` and for rulesets made as the original's instructions say. Owns one
//! chain in `filter`, reached from the top of INPUT, for IPv4 and IPv6. Starts `iptables` and nothing else, by absolute
//! path, with an argument vector, without a shell and with an empty environment.
//!
//! ```text
//! -A INPUT -j KNOCKKNOCK                 # first
//! -A KNOCKKNOCK -s ADDRESS -p tcp --syn --dport PORT -m conntrack --ctstate NEW -m time --datestop UTC
//!               -m hashlimit <one, ever> -j CONNMARK --set-xmark MARK/MARK          # one for each grant
//! -A KNOCKKNOCK -m conntrack --ctstate NEW -m connmark --mark MARK/MARK -j ACCEPT   # also a SYN that is sent again
//! ```
//!
//! The stop time is the kernel's: a rule that a killed helper leaves behind admits nobody after its time, and the next
//! start takes it away. `hashlimit` and not `limit`, because the legacy iptables replaces the whole table whenever a rule
//! is added, which makes every `limit` start again: another grant would let a second connection in. A hash table lives on
//! under its name.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::{MARK, Protocol, Request};

const IPV4_TOOLS: [&str; 3] = ["/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables"];
const IPV6_TOOLS: [&str; 3] = ["/usr/sbin/ip6tables", "/sbin/ip6tables", "/usr/bin/ip6tables"];
/// How long `iptables -w` waits for another one to finish, in seconds; the daemon waits 5 for a reply.
const LOCK_SECONDS: &str = "2";
/// iptables's exit status for "there is no such rule", among others; 4 would be "could not get the lock".
const NO_SUCH_RULE: i32 = 1;
/// Likewise, for a rule that leads to a chain that is not there.
const NO_SUCH_CHAIN: i32 = 2;

/// Our chain in the kernel, and the grants in it.
#[derive(Debug)]
pub struct Chain {
    name: String,
    families: Vec<Family>,
    grants: Vec<Grant>,
    /// How many grants there have been: the name of each one's hash table.
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    tool: &'static str,
    is_ipv4: bool,
}

#[derive(Debug)]
struct Grant {
    request: Request,
    rule: Vec<String>,
    end: Instant,
}

/// Why there is no chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// There is no such program.
    NoTool(&'static str),
    /// `iptables` with these arguments ended with this status (`None`: it did not start, or a signal ended it) and said this.
    Failed(String, Option<i32>, String),
}

impl Chain {
    /// Makes the chain `name`, empty, also when an earlier helper left it behind, and tries every match that a grant needs.
    /// Where that fails, nothing is left of it.
    pub fn create(name: &str, ipv6: bool) -> Result<Self, ChainError> {
        let mut chain =
            Self { name: name.to_owned(), families: Vec::new(), grants: Vec::new(), count: 0 };
        match chain.make(ipv6) {
            Ok(()) => Ok(chain),
            Err(why) => {
                chain.close();
                Err(why)
            }
        }
    }

    fn make(&mut self, ipv6: bool) -> Result<(), ChainError> {
        for (tools, is_ipv4) in [(IPV4_TOOLS, true), (IPV6_TOOLS, false)] {
            if !is_ipv4 && !ipv6 {
                continue;
            }
            let tool = tools
                .into_iter()
                .find(|tool| Path::new(tool).exists())
                .ok_or(ChainError::NoTool(tools[0]))?;
            let family = Family { tool, is_ipv4 };
            self.families.push(family);
            self.set_up(family)?;
            // Addresses for documentation, and a time that is over.
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            let address =
                if is_ipv4 { Ipv4Addr::new(192, 0, 2, 1).into() } else { IpAddr::from(v6) };
            let request = Request { address, protocol: Protocol::Tcp, port: 1, seconds: 1 };
            let rule = self.rule(&request, 0);
            self.insert(family, &rule)?;
            self.delete(family, &rule)?;
        }
        Ok(())
    }

    /// Admits one connection, or renews what is open already.
    pub(super) fn open(&mut self, request: &Request) -> Result<(), Errno> {
        self.expire();
        self.try_open(request).map_err(|error| {
            super::complain(&error);
            Errno::EIO
        })
    }

    fn try_open(&mut self, request: &Request) -> Result<(), ChainError> {
        let Some(family) = self.family_of(request) else {
            return Err(ChainError::NoTool(IPV6_TOOLS[0]));
        };
        // A firewall that was set up after ours put its own rules before the way to our chain, and they refuse whom we let
        // in; somebody else's flush or reload takes that way, and the grants, away. A failure to look is neither.
        let first = family.ask(&["-S", "INPUT", "1"])?;
        if first.trim_end() != format!("-A INPUT -j {}", self.name) {
            if family.has(&["-C", "INPUT", "-j", &self.name])? {
                self.lead_here(family)?;
            } else {
                self.grants.retain(|grant| grant.request.address.is_ipv4() != family.is_ipv4);
                self.set_up(family)?;
            }
        }
        let same = |grant: &Grant| {
            (grant.request.address, grant.request.protocol, grant.request.port)
                == (request.address, request.protocol, request.port)
        };
        for old in self.grants.extract_if(.., |grant| same(grant)).collect::<Vec<_>>() {
            self.delete(family, &old.rule)?;
        }
        // Inclusive of its last second, which began before the grant's end: never early, less than a second late.
        let stop = seconds_since_1970() + u64::from(request.seconds);
        self.count += 1;
        let rule = self.rule(request, stop);
        self.insert(family, &rule)?;
        let end = Instant::now() + Duration::from_secs(u64::from(request.seconds) + 1);
        self.grants.push(Grant { request: *request, rule, end });
        Ok(())
    }

    /// Takes away the rules whose time is over; the kernel has stopped using them by itself.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        for grant in self.grants.extract_if(.., |grant| grant.end <= now).collect::<Vec<_>>() {
            self.forget(&grant);
        }
    }

    /// When [`Chain::expire`] has something to do next, from now; `None`: nothing is open.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let next = self.grants.iter().map(|grant| grant.end).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Takes everything of ours away.
    pub(super) fn close(&self) {
        for family in &self.families {
            for arguments in
                [&["-D", "INPUT", "-j", &self.name][..], &["-F", &self.name], &["-X", &self.name]]
            {
                if let Err(error) = family.run(arguments) {
                    super::complain(&error);
                }
            }
        }
    }

    fn forget(&self, grant: &Grant) {
        if let Some(Err(error)) =
            self.family_of(&grant.request).map(|family| self.delete(family, &grant.rule))
        {
            super::complain(&error);
        }
    }

    fn family_of(&self, request: &Request) -> Option<Family> {
        self.families.iter().copied().find(|family| family.is_ipv4 == request.address.is_ipv4())
    }

    fn set_up(&self, family: Family) -> Result<(), ChainError> {
        let (name, mark) = (self.name.as_str(), format!("{MARK:#x}/{MARK:#x}"));
        let _ = family.run(&["-N", name]); // it may be there already
        family.run(&["-F", name])?;
        let again = [
            "-m",
            "conntrack",
            "--ctstate",
            "NEW",
            "-m",
            "connmark",
            "--mark",
            &mark,
            "-j",
            "ACCEPT",
        ];
        family.run(&[&["-A", name], &again[..]].concat())?;
        self.lead_here(family)
    }

    /// Makes the way to our chain the first rule of INPUT.
    fn lead_here(&self, family: Family) -> Result<(), ChainError> {
        family.has(&["-D", "INPUT", "-j", &self.name])?; // it may be there already, further down
        family.run(&["-I", "INPUT", "1", "-j", &self.name])
    }

    /// The rule for one grant that stops after second `stop` since 1970.
    fn rule(&self, request: &Request, stop: u64) -> Vec<String> {
        let host =
            format!("{}/{}", request.address, if request.address.is_ipv4() { 32 } else { 128 });
        let (protocol, port) = (request.protocol.to_string(), request.port.to_string());
        let (stop, mark) = (utc(stop), format!("{MARK:#x}/{MARK:#x}"));
        let table = format!("{}-{}", self.name, self.count);
        let mut rule = vec!["-s", &host, "-p", &protocol];
        if request.protocol == Protocol::Tcp {
            rule.push("--syn"); // a stray packet does not use the grant up
        }
        rule.extend([
            "--dport",
            &port,
            "-m",
            "conntrack",
            "--ctstate",
            "NEW",
            "-m",
            "time",
            "--datestop",
            &stop,
        ]);
        rule.extend(["-m", "hashlimit", "--hashlimit-name", &table, "--hashlimit-mode", "srcip"]);
        rule.extend([
            "--hashlimit-upto",
            "1/day",
            "--hashlimit-burst",
            "1",
            "--hashlimit-htable-expire",
            "86400000",
        ]);
        rule.extend(["-j", "CONNMARK", "--set-xmark", &mark]);
        rule.into_iter().map(str::to_owned).collect()
    }

    fn insert(&self, family: Family, rule: &[String]) -> Result<(), ChainError> {
        let rule = rule.iter().map(String::as_str);
        family.run(&["-I", &self.name, "1"].into_iter().chain(rule).collect::<Vec<_>>())
    }

    /// Takes `rule` away, if it is there.
    fn delete(&self, family: Family, rule: &[String]) -> Result<(), ChainError> {
        let rule = rule.iter().map(String::as_str);
        match family.run(&["-D", &self.name].into_iter().chain(rule).collect::<Vec<_>>()) {
            Err(ChainError::Failed(_, Some(NO_SUCH_RULE), _)) => Ok(()),
            done => done,
        }
    }
}

impl Family {
    fn run(self, arguments: &[&str]) -> Result<(), ChainError> {
        self.ask(arguments).map(drop)
    }

    /// Whether the rule that `arguments` name was there.
    fn has(self, arguments: &[&str]) -> Result<bool, ChainError> {
        match self.run(arguments) {
            Err(ChainError::Failed(_, Some(NO_SUCH_RULE | NO_SUCH_CHAIN), _)) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// What `iptables` prints.
    fn ask(self, arguments: &[&str]) -> Result<String, ChainError> {
        let mut command = Command::new(self.tool);
        let done = command.args(["-w", LOCK_SECONDS]).args(arguments).env_clear().output();
        let (status, said) = match done {
            Ok(done) if done.status.success() => {
                return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
            }
            Ok(done) => (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(error) => (None, error.to_string()),
        };
        Err(ChainError::Failed(format!("{} {}", self.tool, arguments.join(" ")), status, said))
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `2026-11-20T13:05:09`, as `--datestop` reads it, which is in UTC.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their odd day last (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

impl std::error::Error for ChainError {}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTool(tool) => {
                write!(
                    f,
                    "there is no {tool}: install iptables, or set firewall = \"nftables\" in the config"
                )
            }
            Self::Failed(command, status, said) => {
                write!(f, "{command}: ")?;
                status.map_or(Ok(()), |status| write!(f, "exit status {status}: "))?;
                write!(f, "{}", said.trim_end().escape_debug())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_date_u_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_795_179_909, "2026-11-20T13:05:09"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn a_rule_is_for_one_host_one_port_one_connection_and_a_time() {
        let chain =
            Chain { name: "KNOCKKNOCK".to_owned(), families: vec![], grants: vec![], count: 7 };
        let request = Request {
            address: "192.0.2.7".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 22,
            seconds: 15,
        };
        assert_eq!(
            chain.rule(&request, 1_795_179_909).join(" "),
            "-s 192.0.2.7/32 -p tcp --syn --dport 22 -m conntrack --ctstate NEW -m time --datestop 2026-11-20T13:05:09 \
             -m hashlimit --hashlimit-name KNOCKKNOCK-7 --hashlimit-mode srcip --hashlimit-upto 1/day --hashlimit-burst 1 \
             --hashlimit-htable-expire 86400000 -j CONNMARK --set-xmark 0x20000000/0x20000000"
        );
        let v6 =
            Request { address: "2001:db8::7".parse().unwrap(), protocol: Protocol::Udp, ..request };
        assert!(
            chain
                .rule(&v6, 0)
                .join(" ")
                .starts_with("-s 2001:db8::7/128 -p udp --dport 22 -m conntrack")
        );
    }
}
