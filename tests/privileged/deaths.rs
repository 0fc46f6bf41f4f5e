//! Whoever dies, and however: nothing of ours stays open.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::net::{Namespace, until};

const TABLE: &str = "knockknock";

/// A daemon with a helper and an open port.
fn opened(seconds: u16) -> (Namespace, Agent, Pid) {
    let server = Namespace::server();
    let mut daemon = server.agent();
    let helper = Pid::from_raw(daemon.start_helper(TABLE));
    assert_eq!(daemon.open("192.0.2.7", 22, seconds), "Ok(Opened)");
    assert_eq!(server.expectations().len(), 1);
    (server, daemon, helper)
}

#[test]
fn the_table_goes_with_a_killed_helper_and_a_new_one_starts() {
    let (server, mut daemon, helper) = opened(600);
    kill(helper, Signal::SIGKILL).unwrap();
    until(2, "the table is gone", || !server.has_table(TABLE));
    assert_eq!(daemon.open("192.0.2.7", 22, 600), "Err(Ended)");
    assert_eq!(daemon.ask("end"), "killed by SIGKILL");
    daemon.start_helper(TABLE);
    assert_eq!(server.expectations().len(), 1, "what was open ends at its time");
    assert_eq!(daemon.open("192.0.2.7", 22, 1), "Ok(Opened)");
    until(3, "the new one's time", || server.expectations().is_empty());
}

#[test]
fn the_helper_and_the_table_go_with_a_killed_daemon() {
    let (server, daemon, helper) = opened(600);
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    kill(pid, Signal::SIGKILL).unwrap();
    until(2, "the table is gone", || !server.has_table(TABLE));
    until(2, "the helper is gone", || !std::fs::exists(format!("/proc/{helper}/fd/0")).unwrap());
}

#[test]
fn the_table_goes_when_both_are_killed_at_once() {
    let (server, daemon, helper) = opened(600);
    for pid in [helper, Pid::from_raw(daemon.pid().cast_signed())] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    until(2, "the table is gone", || !server.has_table(TABLE));
}

#[test]
fn the_port_closes_in_time_while_the_helper_is_stopped_and_the_daemon_gets_rid_of_it() {
    let (server, mut daemon, helper) = opened(1);
    kill(helper, Signal::SIGSTOP).unwrap();
    until(2, "the grant ends one second after", || server.expectations().is_empty());
    assert_eq!(daemon.open("192.0.2.7", 22, 600), "Err(TimedOut)");
    assert_eq!(
        daemon.open("192.0.2.7", 22, 600),
        "Err(TimedOut)",
        "no late reply is taken for a new one"
    );
    assert_eq!(daemon.ask("end"), "killed by SIGKILL");
    assert!(!server.has_table(TABLE));
}

#[test]
fn the_port_closes_in_time_while_the_daemon_is_stopped() {
    let (server, daemon, _) = opened(1);
    kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGSTOP).unwrap();
    until(2, "the grant ends one second after", || server.expectations().is_empty());
}

#[test]
fn signals_for_the_whole_group_leave_the_helper_to_the_daemon() {
    let (server, mut daemon, helper) = opened(600);
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP]
    {
        kill(helper, signal).unwrap();
    }
    assert_eq!(daemon.open("192.0.2.8", 22, 600), "Ok(Opened)");
    assert_eq!(server.expectations().len(), 2);
    assert_eq!(daemon.ask("end"), "exit status 0");
    assert!(!server.has_table(TABLE));
}
