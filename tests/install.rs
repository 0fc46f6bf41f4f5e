//! `scripts/install.sh` puts things where they are looked for. What builds and what takes root is played by stand-ins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Programs with these names that come before the real ones: a cargo that has built already, and nothing that asks.
fn stand_ins(dir: &Path) {
    let metadata = format!(r#"echo '{{"target_directory":"{}"}}'"#, dir.display());
    for (name, does) in [("cargo", metadata.as_str()), ("setcap", "true"), ("sudo", r#"exec "$@""#)]
    {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::create_dir(dir.join("release")).unwrap();
    for program in [env!("CARGO_BIN_EXE_knock"), env!("CARGO_BIN_EXE_knock-proxy")] {
        let name = Path::new(program).file_name().unwrap();
        fs::copy(program, dir.join("release").join(name)).unwrap();
    }
}

fn install(dir: &Path, arguments: &[&str]) -> Output {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh");
    Command::new(script).args(arguments).current_dir(dir).env("PATH", path).output().unwrap()
}

#[test]
fn a_prefix_of_one_s_own_gets_units_where_systemd_looks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    stand_ins(dir.path());
    let output = install(dir.path(), &["--client", "--prefix", ".local"]);
    assert!(output.status.success(), "{output:?}");
    let prefix = dir.path().join(".local");
    assert!(prefix.join("share/systemd/user/knock-proxy.socket").is_file());
    let service = prefix.join("share/systemd/user/knock-proxy.service");
    let program = prefix.join("bin/knock-proxy");
    assert!(program.is_file());
    let starts = format!("\nExecStart={}\n", program.display());
    assert!(fs::read_to_string(service).unwrap().contains(&starts), "{starts}");
}

#[test]
fn a_prefix_that_is_not_said_is_a_wrong_command_line() {
    let dir = tempfile::tempdir().unwrap();
    stand_ins(dir.path());
    assert_eq!(install(dir.path(), &["--prefix"]).status.code(), Some(2));
}
