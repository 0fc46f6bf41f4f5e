//! `scripts/install.sh` puts things where they are looked for. What builds and what takes root is played by stand-ins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Makes a shell script.
fn program(path: &Path, does: &str) {
    fs::write(path, format!("#!/bin/sh\n{does}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Programs with these names that come before the real ones: a cargo that has built already, and nothing that asks.
fn stand_ins(dir: &Path) {
    let metadata = format!(r#"echo '{{"target_directory":"{}"}}'"#, dir.display());
    for (name, does) in [("cargo", metadata.as_str()), ("setcap", "true"), ("sudo", r#"exec "$@""#)]
    {
        program(&dir.join(name), does);
    }
    fs::create_dir(dir.join("release")).unwrap();
    for program in [
        env!("CARGO_BIN_EXE_knock"),
        env!("CARGO_BIN_EXE_knock-proxy"),
        env!("CARGO_BIN_EXE_knock-daemon"),
        env!("CARGO_BIN_EXE_knock-genprofile"),
    ] {
        let name = Path::new(program).file_name().unwrap();
        // With debugging information they have megabytes: not copied, only read through a link.
        symlink(program, dir.join("release").join(name)).unwrap();
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

/// Every file below a directory, by its path from there.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

#[test]
fn uninstall_takes_back_what_was_put_and_nothing_else() {
    for only in [&["--client"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        stand_ins(dir.path());
        let prefix = dir.path().join("p");
        fs::create_dir_all(prefix.join("bin")).unwrap();
        for other in ["bin/another", "knock-daemon.conf"] {
            fs::write(prefix.join(other), "not ours").unwrap();
        }
        let before = files(&prefix);
        let run = |more: &[&str]| {
            let arguments = [&["--prefix", prefix.to_str().unwrap()], only, more].concat();
            let output = install(dir.path(), &arguments);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&[]);
        let installed = files(&prefix);
        assert!(installed.len() >= before.len() + 10, "{installed:?}");
        assert_eq!(installed.contains(&"sbin/knock-daemon".to_owned()), only.is_empty());
        // Again: an upgrade, of a program that changed meanwhile.
        let built = dir.path().join("release/knock");
        fs::remove_file(&built).unwrap();
        program(&built, "echo newer");
        run(&[]);
        assert_eq!(files(&prefix), installed);
        assert!(fs::read_to_string(prefix.join("bin/knock")).unwrap().contains("newer"));

        let said = run(&["--uninstall"]);
        assert_eq!(files(&prefix), before, "{said}");
        for file in installed.iter().filter(|file| !before.contains(file)) {
            assert!(said.contains(&format!("removed {}", prefix.join(file).display())), "{file}");
        }
        assert!(said.contains("profiles and config stay"), "{said}");
        assert!(run(&["--uninstall"]).contains("nothing of knockknock is installed"));
    }
}

/// What Debian 12 says: a package by this name is referred to, and there is none.
#[test]
fn a_host_without_a_rust_that_is_new_enough_is_told_where_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    stand_ins(dir.path());
    let stand_in = |name: &str, does: &str| program(&dir.path().join(name), does);
    stand_in("cargo", "echo 'cargo 0.66.0'");
    stand_in(
        "apt-cache",
        r"[ $1 = show ] || printf 'rustup:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n'",
    );
    stand_in("apt-get", "echo apt-get was called");
    // Nobody's home has another cargo.
    stand_in("getent", "echo nobody:x:65534:65534::/nonexistent:/bin/false");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.path().display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install.sh");
    let output = Command::new(script)
        .args(["--client", "--prefix"])
        .arg(dir.path().join("p"))
        .envs([("PATH", path.as_str()), ("HOME", "/nonexistent")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["is too old (cargo 0.66.0)", "install Rust 1.", "https://rustup.rs"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!String::from_utf8(output.stdout).unwrap().contains("apt-get was called"));
}

#[test]
fn a_prefix_that_is_not_said_is_a_wrong_command_line() {
    let dir = tempfile::tempdir().unwrap();
    stand_ins(dir.path());
    assert_eq!(install(dir.path(), &["--prefix"]).status.code(), Some(2));
}
