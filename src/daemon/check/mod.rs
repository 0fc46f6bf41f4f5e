//! `knock-daemon --check`: checks all that the daemon needs to start, and reports what it finds.
//!
//! ```text
//! this file   config, user, profiles                      host    what the kernel is set to
//! firewall    whether the back end works                  log     whether the kernel's lines are read
//! guard       what our own firewall script remembers      open    what a knock could open
//! ```

mod clock;
mod firewall;
mod found;
mod guard;
mod host;
mod log;
mod open;

use super::config::LogRule;
use super::confirmed_guard::ConfirmedGuard;
use super::error::DaemonError;
use super::load_profiles;
use super::log_source::OpenedLog;
use super::registry::ProfileRegistry;
use super::say;
use super::settings::Settings;
use super::trial_plan::{Finding, Interrupted, RunTrial, TrialPlan};
use super::user::user_to_run_as;
use crate::grant::{Protocol, listed};
use crate::privileged::drop_privileges::drop_privileges;
use found::Found;
use open::Offer;

/// Checks config, user, firewall, log and profiles, and with a `trial` by packets. Every problem is reported; one is enough
/// to fail.
pub(super) fn run(settings: &Settings, trial: Option<RunTrial>) -> Result<(), DaemonError> {
    let mut found = Found::default();
    found.say("config", config(settings));
    let limits = settings.limits();
    let user = user_to_run_as(settings.config.user.as_deref());
    match &user {
        Ok(ids) => found.say("user", format_args!("runs as uid {}, gid {}", ids.uid, ids.gid)),
        Err(error) => found.problem("user", error),
    }
    let knows_connections = firewall::check(settings, &mut found);
    host::conntrack(settings.config.max_open, &mut found);
    let guard = guard::check(&settings.config_dir, &mut found);

    let Ok(choice) = settings.config.log.parse();
    match OpenedLog::open(&choice) {
        Ok(source) => log::check(&source, &mut found),
        Err(error) => found.problem("log", error),
    }

    // Root reads the profile files. They are parsed after root's privileges are dropped, except with `--try`, which
    // needs them.
    let files = load_profiles::read_files(settings);
    let allow = settings.config.allow.as_deref();
    if let (Some(trial), Ok((files, _))) = (trial, &files) {
        let offers = Offer::of_all(files, allow);
        try_out(settings, trial, &offers, guard.as_ref(), &mut found)?;
    }
    if let Ok(ids) = &user {
        drop_privileges(ids, &[])?;
    }
    let files = files.and_then(|(files, unreadable)| {
        let offers = Offer::of_all(&files, allow);
        let (registry, broken) = load_profiles::parse(settings, files, &limits, knows_connections)?;
        Ok((offers, registry, broken + unreadable))
    });
    let has_stealth = files.as_ref().is_ok_and(|(_, registry, _)| !registry.stealth.is_empty());
    host::clock(has_stealth, &mut found);
    match files {
        Ok((possible, registry, left_out)) => {
            offers(&possible, guard.as_ref(), trial.is_some(), &found);
            share(settings, &registry, &mut found);
            let unlisted = registry.unlisted();
            if !unlisted.is_empty() {
                let warning = say::can_be_silenced(&unlisted);
                found.say("profiles", format_args!("WARNING: {warning}"));
            }
            // Each of these was reported already.
            found.count(left_out);
        }
        Err(error) => found.problem("profiles", error),
    }
    if found.problems() > 0 {
        return Err(DaemonError::Problems(found.problems()));
    }
    found.say("result", "nothing was found that would keep a knock from working");
    Ok(())
}

fn config(settings: &Settings) -> String {
    let config = &settings.config;
    let allow = match &config.allow {
        None => "any TCP port".to_owned(),
        Some(services) => listed(services, ", "),
    };
    format!(
        "{:?}: {allow}, open for {} s; window {}; log prefix {:?}",
        settings.config_dir, config.delay, config.error_window, config.log_prefix
    )
}

/// Reports whether the numbers of all profiles have room in the kernel's set.
fn share(settings: &Settings, registry: &ProfileRegistry, found: &mut Found) {
    if settings.config.log_rule != LogRule::Own {
        return;
    }
    match registry.share(settings.config.error_window) {
        Ok(share) => {
            for less in share.shortage() {
                found.say("profiles", less);
            }
        }
        Err(error) => found.problem("profiles", error),
    }
}

/// Reports what a knock could open, and whether the guard closes it to strangers.
fn offers(offers: &[Offer], guard: Option<&ConfirmedGuard>, is_tried: bool, found: &Found) {
    for offer in offers {
        let at = offer
            .knock_port
            .map_or_else(|| "the port that it asks for".to_owned(), |port| format!("port {port}"));
        found.say(
            "profile",
            format_args!(
                "{:?} ({}) knocks on {at} and can open {}",
                offer.profile,
                offer.layout.name(),
                offer.text()
            ),
        );
    }
    let (services, _) = open::to_try(offers, guard);
    let unsure = services
        .iter()
        .filter(|service| guard.is_none_or(|guard| !guard.closes(Protocol::Tcp, service.port)));
    let unsure: Vec<_> = unsure.map(|service| format!("tcp/{}", service.port)).collect();
    if !unsure.is_empty() && !is_tried {
        found.say(
            "guard",
            format_args!(
                "no guard of ours closes {}; whether strangers are kept out cannot be seen without a packet: \
                 `--check --try` tries it",
                unsure.join(", ")
            ),
        );
    }
}

/// Has each service tried as a stranger, and by a knock.
fn try_out(
    settings: &Settings,
    trial: RunTrial,
    offers: &[Offer],
    guard: Option<&ConfirmedGuard>,
    found: &mut Found,
) -> Result<(), DaemonError> {
    let (services, too_many) = open::to_try(offers, guard);
    let config = &settings.config;
    let plan = TrialPlan {
        config_dir: settings.config_dir.clone(),
        log: config.log.clone(),
        firewall: config.firewall.name(),
        user: config.user.clone(),
        services,
        taken: offers.iter().filter_map(|offer| offer.knock_port).collect(),
        ipv4: config.ipv4,
        ipv6: config.ipv6,
    };
    let tried = trial(&plan, &mut |finding| match finding {
        Finding::Note(what) => found.say("try", what),
        Finding::Problem(what) => found.problem("try", what),
    });
    tried.map_err(|Interrupted| DaemonError::Interrupted)?;
    let udp = open::udp(offers, guard);
    if !udp.is_empty() {
        found.say("try", format_args!("not tried, because silence tells nothing: {udp}"));
    }
    if too_many {
        found.say("try", "there are more services; the first 16 were tried");
    }
    Ok(())
}
