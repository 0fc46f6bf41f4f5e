//! `knock-daemon --check --try`: is each service closed to strangers, and does a knock open it, once only? A program of its
//! own that root runs on demand. It sends packets; it reads no rules.
//!
//! ```text
//! this file    what is tried, and what the results mean
//! stranger     a thread in a network namespace of its own, and its cable (link)
//! server       a trial daemon: the same program, the host's own config, a throw-away profile
//! signals      SIGINT, SIGTERM and SIGHUP
//! ```
//!
//! Nothing of it outlives this process: namespace and cable end with the thread, the daemon is ended by the kernel, and what
//! is left of a directory goes with the next trial. What it reads comes from this host and its own namespace.

mod host;
mod link;
mod server;
mod signals;
mod stranger;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::knock::packet::{AddressPair, KnockPacket};
use crate::daemon::trial_plan::{Finding, Interrupted, TrialPlan, Tried};
use crate::layout::Request;
use server::Server;
use signals::{Signals, TICK};
use stranger::{Reach, Stranger};

/// How long a stranger waits for an answer: a SYN is sent again after one second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a knock takes at the most until the daemon has opened; then it is sent anew. A firewall may log so many a second.
const GRANT_TIMEOUT: Duration = Duration::from_millis(1500);
const MAX_KNOCKS: usize = 3;
/// How long the daemon may take to read the log line of the first connection,
const CAME_IN_TIMEOUT: Duration = Duration::from_secs(1);
/// and how long, from then on, to close the grant.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the trial, and reports each finding at once. Nothing is left of it when this returns.
pub(crate) fn run(plan: &TrialPlan, say: &mut dyn FnMut(Finding)) -> Result<(), Interrupted> {
    let tried = Signals::take().map_err(|errno| errno.desc().to_owned());
    let tried = tried.and_then(|signals| {
        let [high, low] = host::random()?;
        let stranger = Stranger::arrive(u16::from_be_bytes([high, low]))?;
        Ok((signals, stranger))
    });
    match tried {
        Ok((signals, stranger)) => {
            let mut trial = TrialRun { plan, signals: &signals, stranger: &stranger, say };
            trial.run()
        }
        Err(why) => {
            say(Finding::Note(format!(
                "nothing could be tried: {why}; this takes all of root's privileges"
            )));
            Ok(())
        }
    }
}

/// One trial of all services.
struct TrialRun<'t> {
    plan: &'t TrialPlan,
    signals: &'t Signals,
    stranger: &'t Stranger,
    say: &'t mut dyn FnMut(Finding),
}

/// A service that was found closed, and which a knock may open.
struct Closed {
    source: IpAddr,
    to: SocketAddr,
    /// Whether the stranger got an answer, of refusal, not silence.
    answered: bool,
}

impl TrialRun<'_> {
    fn run(&mut self) -> Result<(), Interrupted> {
        let targets = self.targets();
        let mut closed = Vec::new();
        for (source, host) in &targets {
            for service in &self.plan.services {
                closed.extend(self.is_closed(*source, *host, *service)?);
            }
        }
        if !closed.is_empty() {
            self.knock_at(&closed)?;
        }
        if !targets.is_empty() {
            self.note(
                "tried as a stranger on an interface of its own (kktry): rules that name interfaces can treat a real one \
                 otherwise, and what is in front of this host (a router, a cloud's security group) was not tried",
            );
        }
        Ok(())
    }

    /// The stranger's address and this host's, for each family.
    fn targets(&mut self) -> Vec<(IpAddr, IpAddr)> {
        let mut targets = Vec::new();
        let [is_v4, is_v6]: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        for (name, wanted, is_family) in
            [("IPv4", self.plan.ipv4, is_v4), ("IPv6", self.plan.ipv6, is_v6)]
        {
            let ends = self.stranger.ends.iter().find(|ends| is_family(&ends.stranger));
            match (ends, wanted, host::address(is_family)) {
                (_, false, _) => {}
                (Some(ends), true, Some(host)) => targets.push((ends.stranger, host)),
                (None, true, Some(_)) => {
                    self.note(&format!(
                        "{name} could not be tried: no free network for a stranger"
                    ));
                }
                (_, true, None) => {
                    self.note(&format!("{name} was not tried: this host has no such address"));
                }
            }
        }
        targets
    }

    /// Whether a stranger is kept out; what a knock may open then is given back.
    fn is_closed(
        &mut self,
        source: IpAddr,
        host: IpAddr,
        service: Tried,
    ) -> Result<Option<Closed>, Interrupted> {
        let port = service.port;
        let to = SocketAddr::new(host, port);
        let answered = match self.stranger.connect(to, CONNECT_TIMEOUT, self.signals)? {
            Reach::In(_) => {
                self.problem(&format!(
                    "tcp/{port} is open to strangers ({to} let one in): close it, see minimal-firewall.sh --only tcp/{port}"
                ));
                return Ok(None);
            }
            Reach::Failed(why) => {
                self.note(&format!("tcp/{port} at {host} could not be tried: {why}"));
                return Ok(None);
            }
            Reach::Refused => true,
            Reach::NoAnswer => false,
        };
        if !service.can_be_opened {
            let how = if answered { "refused" } else { "left without an answer" };
            self.note(&format!(
                "tcp/{port} at {host}: a stranger was {how}; no knock may open it (`allow`)"
            ));
            return Ok(None);
        }
        Ok(Some(Closed { source, to, answered }))
    }

    /// Knocks for each, with a daemon for the purpose.
    fn knock_at(&mut self, closed: &[Closed]) -> Result<(), Interrupted> {
        let mut ports: Vec<u16> = closed.iter().map(|closed| closed.to.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        let Ok(knock_port) = self.free_port(&ports) else {
            self.note("no knock could be tried: /dev/urandom cannot be read");
            return Ok(());
        };
        let mut server = match Server::start(self.plan, &ports, knock_port, self.signals)? {
            Ok(server) => server,
            Err(why) => {
                self.problem(&format!(
                    "no knock could be tried, because the trial daemon did not start: {why}"
                ));
                return Ok(());
            }
        };
        closed.iter().try_for_each(|closed| self.knock_for(&mut server, closed))
    }

    fn knock_for(&mut self, server: &mut Server, closed: &Closed) -> Result<(), Interrupted> {
        let Closed { source, to, answered } = *closed;
        let (host, port) = (to.ip(), to.port());
        let at = format!("tcp/{port} at {host}");
        let before = if answered { "refused" } else { "left without an answer" };
        server.last_words();
        if !self.opens(server, source, to)? {
            let but = if host.is_ipv6() && !answered {
                ", or a firewall drops what IPv6 needs (neighbour discovery)"
            } else {
                ""
            };
            let last = server.last_words();
            self.problem(&format!(
                "{at}: a knock on port {} opened nothing: it was not logged (see `log` and `log_prefix`){but}; the \
                 trial daemon: {}",
                server.knock_port, last
            ));
            return Ok(());
        }
        match self.stranger.connect(to, CONNECT_TIMEOUT, self.signals)? {
            Reach::In(first) => self.is_shut_behind(server, &first, &at, before, to),
            reach => {
                let listens = host::listens(to);
                let now = match reach {
                    Reach::Failed(why) => why,
                    Reach::NoAnswer => "there was no answer".into(),
                    _ => "it was refused".into(),
                };
                match (listens, now.as_str(), answered) {
                    // A firewall that dropped the first SYN would drop this one too: so the host itself has answered.
                    (false, "it was refused", false) => self.note(&format!(
                        "{at}: closed to strangers; a knock was let through, but nothing listens there"
                    )),
                    (false, _, true) => self.note(&format!(
                        "{at}: a knock was heard and opened; nothing listens there, so nobody can see whether the firewall lets it in"
                    )),
                    _ => self.problem(&format!(
                        "{at}: a knock was heard and opened, but the connection did not get in ({now}): the firewall must accept \
                         what conntrack calls RELATED (ct state established,related accept; firewall = \"nftables\": our mark), \
                         before it refuses"
                    )),
                }
                Ok(())
            }
        }
    }

    /// Knocks until the daemon has opened.
    fn opens(
        &mut self,
        server: &mut Server,
        source: IpAddr,
        to: SocketAddr,
    ) -> Result<bool, Interrupted> {
        let opened = format!(": opened tcp/{} to {source} ", to.port());
        for _ in 0..MAX_KNOCKS {
            let (Some(fields), Some(addresses)) =
                (server.next_knock(Request(to.port())), AddressPair::new(source, to.ip()))
            else {
                return Ok(false);
            };
            let Ok([high, low, flow_high, _]) = host::random() else { return Ok(false) };
            let source_port = u16::from_be_bytes([high, low]) | 0x8000;
            let packet =
                KnockPacket::classic(addresses, source_port, server.knock_port, fields, flow_high);
            if let Err(why) = self.stranger.knock(packet, self.signals)? {
                self.note(&why);
                return Ok(false);
            }
            if server.wait_for(GRANT_TIMEOUT, self.signals, |line| line.contains(&opened))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A second connection, while the first stands. The daemon revokes the grant when it reads the log line of the
    /// first.
    fn is_shut_behind(
        &mut self,
        server: &mut Server,
        _first: &TcpStream,
        at: &str,
        before: &str,
        to: SocketAddr,
    ) -> Result<(), Interrupted> {
        // With `spend = syn` the first packet ends the grant, and no line reports that.
        let came_in = format!(" came in at tcp/{} ", to.port());
        server.wait_for(CAME_IN_TIMEOUT, self.signals, |line| line.contains(&came_in))?;
        let end = Instant::now() + REVOKE_TIMEOUT;
        loop {
            match self.stranger.connect(to, CONNECT_TIMEOUT, self.signals)? {
                Reach::In(_) if Instant::now() < end => thread::sleep(TICK),
                Reach::In(_) => {
                    self.problem(&format!(
                        "{at}: a stranger was {before} and a knock let one in, but the next connections got in too, \
                         {} s later: what a knock opens does not shut",
                        REVOKE_TIMEOUT.as_secs()
                    ));
                    return Ok(());
                }
                _ => {
                    self.note(&format!(
                        "{at}: a stranger was {before}, a knock let one connection in, and the next was kept out"
                    ));
                    return Ok(());
                }
            }
        }
    }

    /// A knock port that nobody uses: no profile, no service, no listener.
    fn free_port(&self, services: &[u16]) -> Result<u16, String> {
        loop {
            let [high, low] = host::random()?;
            let port = u16::from_be_bytes([high, low]) | 0x4000;
            let any = [SocketAddr::from(([0; 4], port)), SocketAddr::from(([0_u16; 8], port))];
            if !services.contains(&port)
                && !self.plan.taken.contains(&port)
                && !any.into_iter().any(host::listens)
            {
                return Ok(port);
            }
        }
    }

    fn note(&mut self, what: &str) {
        (self.say)(Finding::Note(what.to_owned()));
    }

    fn problem(&mut self, what: &str) {
        (self.say)(Finding::Problem(what.to_owned()));
    }
}
