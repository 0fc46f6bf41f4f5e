//! `knock-genprofile` as the server's admin sees it: what is written, and what the next steps are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn genprofile(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
        .args(["--config-dir".as_ref(), dir.as_os_str()])
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs it, which has to work, and gives what it printed.
#[track_caller]
fn said(dir: &Path, arguments: &[&str]) -> String {
    let output = genprofile(dir, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn without_more_it_may_ask_for_ssh_and_the_first_profile_limits_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("knockknock.d");
    let text = said(dir, &["laptop", "666"]);
    assert_eq!(read(dir, "profiles/laptop/config"), "[main]\nknock_port = 666\nallow = tcp/22\n\n");
    assert_eq!(read(dir, "config"), "[main]\nallow = tcp/22\n");
    let option = format!("--only tcp/22 --config-dir {}", dir.display());
    assert_says(
        &text,
        &[
            "wrote `allow = tcp/22` to its config, and to ",
            "/knockknock.d/config, which had none: it limits every profile",
            "To widen it, name more services in both, like `allow = tcp/22, tcp/8000-8010`",
            "scp -r ",
            &option,
            "knock -p 22 ",
        ],
    );
    // Whoever comes over the network copies the profile before anything closes.
    let at = |part: &str| text.find(part).unwrap();
    assert!(at("scp -r") < at("knock-daemon") && at("knock-daemon") < at("minimal-firewall.sh"));
}

#[test]
fn without_a_knock_port_it_is_stealth_and_no_port_has_to_be_free() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    said(dir, &["classic", "22"]);
    for name in ["laptop", "phone"] {
        let text = said(dir, &[name]);
        assert_says(&text, &["stealth: a knock goes to the port that it asks for", "scp -r "]);
        assert!(!text.contains("knock port"), "{text}");
        let config = "[main]\nlayout = stealth\nallow = tcp/22\n\n";
        assert_eq!(read(dir, &format!("profiles/{name}/config")), config);
    }
    let secret = |name: &str| read(dir, &format!("profiles/{name}/secret.key"));
    assert_ne!(secret("laptop"), secret("phone"));
    said(dir, &["--bind-source", "bound"]);
    assert!(read(dir, "profiles/bound/config").contains("\nbind_source = true\n"));
    assert_eq!(genprofile(dir, &["--bind-source", "other", "1"]).status.code(), Some(2));
}

#[test]
fn a_profile_is_printed_as_one_line_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (arguments, layout, keys) in [
        (&["--print", "laptop"][..], "layout=stealth,", &["secret"][..]),
        (&["--print", "old", "666"], "layout=classic,knock_port=666,", &["cipher", "mac"]),
    ] {
        let made = genprofile(dir, arguments);
        assert!(made.status.success(), "{made:?}");
        let line = String::from_utf8(made.stdout).unwrap();
        assert!(line.starts_with("knockknock-profile-1,"), "{line}");
        assert_says(&line, &[layout, ",port=22,", ",check="]);
        assert!(line.ends_with('\n') && line.lines().count() == 1, "{line}");
        let text = String::from_utf8(made.stderr).unwrap();
        assert_says(&text, &["knock --import ", "knock-daemon --config-dir ", "knock -p 22 "]);
        assert!(!text.contains("scp"), "{text}");
        for key in keys {
            let field = line.split(',').find_map(|field| field.strip_prefix(&format!("{key}=")));
            let file = read(dir, &format!("profiles/{}/{key}.key", arguments[1]));
            let in_file = file.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
            assert_eq!(field, Some(in_file.as_str()));
            assert!(!text.contains(&in_file), "{text}");
        }
        let again = genprofile(dir, arguments);
        assert_eq!((again.status.code(), again.stdout.len()), (Some(1), 0));
        let text = String::from_utf8(again.stderr).unwrap();
        assert_says(
            &text,
            &["is printed once", "\nknock-genprofile: fix: ", "another name", "remove this one"],
        );
    }
}

#[test]
fn a_profile_whose_line_nobody_could_get_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap().into();
    let (reader, broken) = std::io::pipe().unwrap();
    drop(reader);
    for stdout in [full(), std::process::Stdio::from(broken)] {
        let made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
            .args(["--config-dir".as_ref(), dir.as_os_str()])
            .args(["--print", "laptop"])
            .stdout(stdout)
            .output()
            .unwrap();
        assert_eq!(made.status.code(), Some(1));
        assert_says(&String::from_utf8(made.stderr).unwrap(), &["could not be printed"]);
        assert_eq!(fs::read_dir(dir.join("profiles")).unwrap().count(), 0);
        assert!(!dir.join("config").exists(), "nothing is left behind");
    }
    // Without --print nobody has to read it.
    said(dir, &["laptop"]);
}

#[test]
fn a_list_is_written_as_config_has_it_and_any_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = said(dir, &["--allow", "any", "first", "1"]);
    assert_eq!(read(dir, "profiles/first/config"), "[main]\nknock_port = 1\n\n");
    assert!(!dir.join("config").exists());
    assert_says(&text, &["may ask for every TCP port", "To narrow it"]);

    let services = "udp/51820,tcp/8000-8010";
    let text = said(dir, &["--allow", services, "--allow=tcp/443", "second", "2"]);
    let line = "allow = udp/51820, tcp/8000-8010, tcp/443\n";
    assert_eq!(read(dir, "profiles/second/config"), format!("[main]\nknock_port = 2\n{line}\n"));
    assert_eq!(read(dir, "config"), format!("[main]\n{line}"));
    assert_says(&text, &["--only udp/51820,tcp/8000-8010,tcp/443", "knock -p udp/51820 "]);

    let text = said(dir, &["--allow", "any", "third", "3"]);
    assert_says(&text, &["limits it, too: udp/51820, tcp/8000-8010, tcp/443"]);
    assert_eq!(genprofile(dir, &["--allow", "any,tcp/22", "fourth", "4"]).status.code(), Some(2));
    assert_eq!(genprofile(dir, &["--allow", "ssh", "fourth", "4"]).status.code(), Some(2));
    assert!(!dir.join("profiles/fourth").exists());
}

#[test]
fn a_config_keeps_what_it_says_and_what_it_does_not_allow_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = dir.join("config");
    let old = "; the original's\n[main]\ndelay: 15 ; seconds\nerror_window = 20\n";
    fs::write(&config, old).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    said(dir, &["laptop", "666"]);
    let new = old.replace("[main]\n", "[main]\nallow = tcp/22\n");
    assert_eq!(read(dir, "config"), new);
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o7777, 0o644);

    let text = said(dir, &["--allow", "tcp/22,tcp/443", "phone", "667"]);
    assert_eq!(read(dir, "config"), new);
    assert_says(&text, &["config's allow does not name tcp/443: nobody can have it until it does"]);
    assert!(!text.contains("name tcp/22"), "{text}");

    fs::write(&config, "[main]\nallow = ssh\n").unwrap();
    let refused = genprofile(dir, &["other", "668"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_says(
        &String::from_utf8(refused.stderr).unwrap(),
        &["line 2", "\"ssh\" is not a service"],
    );
    assert!(!dir.join("profiles/other").exists(), "nothing is left behind");
    let mut left: Vec<_> = fs::read_dir(dir).unwrap().map(|one| one.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config", "profiles"]);
}

#[test]
fn nobody_is_told_to_replace_a_firewall_that_was_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let choice = "# Made by minimal-firewall.sh; change it with that program.\n[main]\nbackend = nftables\nonly = tcp/22\n";
    fs::write(dir.join("firewall"), choice).unwrap();
    let text = said(dir, &["laptop", "666"]);
    assert!(!text.contains("minimal-firewall.sh"), "{text}");
    assert_says(&text, &["The firewall stays as you chose it"]);
    assert!(!text.contains("does not close"), "{text}");
    let text = said(dir, &["--allow", "tcp/22,udp/51820", "phone", "667"]);
    assert!(!text.contains("minimal-firewall.sh"), "{text}");
    assert_says(&text, &["It does not close udp/51820."]);
}

/// The original is Python: its parser has to read what is written, keys of ours included.
#[test]
fn python_reads_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("config"), "[main]\n  delay = 15\n").unwrap();
    said(dir, &["--allow", "tcp/22,udp/51820", "laptop", "666"]);
    let program = "
import configparser, sys
profile, server = (configparser.ConfigParser() for _ in range(2))
profile.read(sys.argv[1] + '/profiles/laptop/config')
server.read(sys.argv[1] + '/config')
assert profile.getint('main', 'knock_port') == 666
assert server.getint('main', 'delay') == 15
assert server.get('main', 'allow') == profile.get('main', 'allow') == 'tcp/22, udp/51820'
";
    let python = Command::new("python3").args(["-c", program]).arg(dir).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
}
