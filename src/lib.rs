//! knockknock: a port opens for one connection to the client that sends one SYN which only it could have made.
//!
//! The modules, in the order in which the server uses them for a knock:
//!
//! ```text
//! privileged               our table logs a SYN that may be a knock -> the kernel's log
//! daemon::log_source       a log source: a file or /dev/kmsg        -> lines
//! daemon::kernel_log_line  one kernel log line                      -> syn::LoggedSyn
//! daemon::match_knock      whose knock is it?
//!   daemon::live_tags        stealth: the SYN's tag                 -> a profile and a number
//!   layout::stealth          its MAC and that profile's key         -> request
//!   layout::classic          classic: the SYN's fields and the keys -> request and counter
//!   layout::receiver         the counter's window, and the way back -> does this knock open?
//! counter                  the counter is durable before anything happens
//! daemon::policy           may this profile have this port?          -> grant::Grant
//! privileged               a fixed-size message through a pipe      -> an expectation of conntrack, for some seconds
//! daemon::open_grants      the connection stands: another line      -> the expectation is deleted
//! ```
//!
//! The client uses the same modules in the opposite order: profile, counter, layout, SYN, raw socket ([`client`]).
//!
//! The dependency rules are in `docs/architecture.md`; `tests/tree` checks them.

#[cfg(all(feature = "misbehave", not(debug_assertions)))]
compile_error!(
    "the feature `misbehave` is for the tests alone: what is built with it does what a stranger's knock says"
);

pub mod client;
pub mod counter;
pub mod daemon;
pub mod genprofile;
pub mod grant;
pub mod layout;
pub mod privileged;
pub mod profile;
pub mod syn;
mod trial;

/// The program `knock-daemon`: everything is in [`daemon`], but what `--check --try` tries.
#[must_use]
pub fn knock_daemon() -> std::process::ExitCode {
    daemon::main(trial::run)
}
