//! What is decided before a counter is used, so that after that only the knock itself can fail.

use std::path::PathBuf;

use super::cli::KnockCli;
use crate::client::knock::error::KnockError;
use crate::client::knock::knocker::{Knocker, Sent, default_profiles};
use crate::client::knock::route::{FoundRoutes, Route};
use crate::client::say::{self, reason};
use crate::layout::Request;

/// One host to knock at.
#[derive(Debug)]
pub(super) struct KnockPlan {
    pub(super) knocker: Knocker,
    /// What to ask the host for.
    pub(super) request: Request,
    /// At least one.
    pub(super) routes: Vec<Route>,
}

impl KnockPlan {
    /// Reports that a knock was sent. No answer confirms a knock, so the message claims nothing about the port.
    pub(super) fn say_sent(&self, sent: &Sent) {
        say::tell(format_args!(
            "knock: {:?}: sent one SYN to {} port {}, asking for port {} for {} (counter {})",
            self.knocker.profile.name,
            sent.route.target.ip(),
            sent.packet.destination_port,
            self.request.0,
            sent.route.source,
            sent.counter,
        ));
        if let Some(why) = sent.source_port.as_ref().and_then(|port| port.guessed()) {
            let (why, fix) = why.in_words();
            say::tell(format_args!("knock: warning: {why}\nknock: fix: {fix}"));
        }
    }
}

/// The plan for `host`. `request`: else what the profile says. Reads files of ours, then asks the resolver.
pub(super) fn plan(
    cli: &KnockCli,
    host: &str,
    request: Option<Request>,
) -> Result<KnockPlan, KnockError> {
    let knocker = Knocker::find(&profiles(cli)?, host, request.map(|request| request.0))?;
    if knocker.readable_by_others && !cli.quiet {
        say::tell(format_args!(
            "knock: warning: others can read the keys of {host:?}\nknock: fix: chmod -R go-rwx {:?}",
            knocker.dir
        ));
    }
    let request = request
        .or(knocker.profile.config.port.map(Request))
        .ok_or_else(|| KnockError::NoPort(host.to_owned(), knocker.dir.join("config")))?;
    let found = knocker.routes(&knocker.resolve()?, cli.family(), cli.source)?;
    if cli.verbose {
        say_routes(&knocker.profile.name, &found);
    }
    Ok(KnockPlan { knocker, request, routes: found.routes })
}

/// The directory of profiles.
pub(super) fn profiles(cli: &KnockCli) -> Result<PathBuf, KnockError> {
    cli.profiles.clone().map_or_else(default_profiles, Ok)
}

fn say_routes(host: &str, FoundRoutes { routes, unreachable }: &FoundRoutes) {
    for (address, why) in unreachable {
        say::tell(format_args!(
            "knock: {host:?}: no route to {address} ({}): skipped",
            reason(why)
        ));
    }
    for Route { source, target } in routes {
        say::tell(format_args!("knock: {host:?}: {} is reached from {source}", target.ip()));
    }
}
