//! `knock-genprofile --print` on one side, `knock --import` on the other: what is printed is what is imported, whole or not at
//! all, and nothing of it is ever shown.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

const KNOCK: &str = env!("CARGO_BIN_EXE_knock");

/// A server's config directory and a client's home.
struct Both {
    _dir: tempfile::TempDir,
    server: PathBuf,
    home: PathBuf,
}

impl Both {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [server, home] = ["server", "home"].map(|name| dir.path().join(name));
        fs::create_dir(&home).unwrap();
        Self { _dir: dir, server, home }
    }

    /// What `knock-genprofile --print` prints.
    #[track_caller]
    fn printed(&self, arguments: &[&str]) -> String {
        let made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
            .args(["--config-dir".as_ref(), self.server.as_os_str()])
            .arg("--print")
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(KNOCK);
        command.args(arguments).env("HOME", &self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn import(&self, arguments: &[&str], input: &str) -> Output {
        fed(&mut self.command(&[&["--import"], arguments].concat()), input)
    }

    fn profiles(&self) -> PathBuf {
        self.home.join(".knockknock")
    }

    fn profile(&self, host: &str) -> PathBuf {
        self.profiles().join(host)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.profiles().join(file)).unwrap()
    }
}

fn fed(command: &mut Command, input: &str) -> Output {
    let mut knock = command.spawn().unwrap();
    // A program that has ended already does not read it.
    let _ = knock.stdin.take().unwrap().write_all(input.as_bytes());
    knock.wait_with_output().unwrap()
}

/// All that is in `dir`, hidden or not, and below it.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in dir.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.extend(tree(&path).iter().map(|below| format!("{name}/{below}")));
        found.push(name);
    }
    found.sort();
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It failed with status 1, said each of `parts`, showed no key and left nothing behind.
#[track_caller]
fn assert_refused(both: &Both, output: &Output, line: &str, parts: &[&str]) {
    let before = tree(&both.home);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(output);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_shows_no_key(output, line);
    assert!(!before.iter().any(|name| name.contains(".key")), "{before:?}");
}

#[track_caller]
fn assert_shows_no_key(output: &Output, line: &str) {
    let said = stderr(output) + &String::from_utf8_lossy(&output.stdout);
    for field in ["secret=", "cipher=", "mac="] {
        assert!(!said.contains(field), "{said}");
        if let Some((_, rest)) = line.split_once(field) {
            assert!(!said.contains(&rest[..8]), "{said}");
        }
    }
}

#[test]
fn what_is_printed_is_what_is_imported_in_both_layouts() {
    let both = Both::new();
    for (host, arguments, config, files) in [
        (
            "stealth.example",
            &["laptop"][..],
            "[main]\nlayout = stealth\nport = 22\n\n",
            &["secret.key"][..],
        ),
        (
            "classic.example",
            &["--allow", "udp/53,tcp/8000-8010", "old", "666"],
            "[main]\nknock_port = 666\nport = 8000\n\n",
            &["cipher.key", "mac.key"],
        ),
        (
            "2001:db8::1",
            &["--allow", "any", "--bind-source", "bound"],
            "[main]\nlayout = stealth\nbind_source = true\n\n",
            &["secret.key"],
        ),
    ] {
        let line = both.printed(arguments);
        let imported = both.import(&[host], &line);
        assert!(imported.status.success(), "{imported:?}");
        assert!(imported.stdout.is_empty());
        assert_shows_no_key(&imported, &line);
        let (client, server) = (both.profile(host), both.server.join("profiles"));
        let server = server.join(
            arguments
                .iter()
                .find(|one| one.chars().all(char::is_alphabetic) && **one != "any")
                .unwrap(),
        );
        assert_eq!(fs::read_to_string(client.join("config")).unwrap(), config);
        for file in files {
            assert_eq!(fs::read(client.join(file)).unwrap(), fs::read(server.join(file)).unwrap());
        }
        assert_eq!(fs::read(client.join("counter")).unwrap(), b"0\n");
        let mut expected = [files, &["config", "counter"]].concat();
        expected.sort_unstable();
        assert_eq!(tree(&client), expected);
        assert_eq!([mode(&both.profiles()), mode(&client)], [0o700; 2]);
        for file in expected {
            assert_eq!(mode(&client.join(file)), 0o600, "{file}");
        }
    }
    let list = Command::new(KNOCK).arg("--list").env("HOME", &both.home).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let rows: Vec<Vec<_>> = list.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[2], ["classic.example", "666", "0", "classic", "classic.example"]);
    assert_eq!(rows[3], ["stealth.example", "asked", "clock", "stealth", "stealth.example"]);
}

/// The one paste of the README, without ssh: whatever the umask is, and whatever a login shell says first.
#[test]
fn one_pipe_makes_both_sides() {
    let both = Both::new();
    let shell = "umask 0; { echo Welcome; \"$1\" --config-dir \"$2\" --print laptop; } | \"$3\" --import server.example";
    let output = Command::new("sh")
        .args(["-c", shell, "sh", env!("CARGO_BIN_EXE_knock-genprofile")])
        .arg(&both.server)
        .arg(KNOCK)
        .env("HOME", &both.home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(said.contains("knock: \"server.example\": made the profile "), "{said}");
    assert!(
        said.contains("knock: when the server's daemon has been restarted: knock server.example\n"),
        "{said}"
    );
    let secrets = [both.profile("server.example"), both.server.join("profiles/laptop")]
        .map(|dir| fs::read(dir.join("secret.key")).unwrap());
    assert_eq!(secrets[0], secrets[1]);
    let dir = both.profile("server.example");
    assert_eq!([mode(&dir), mode(&dir.join("secret.key"))], [0o700, 0o600]);
    // What it asks for when nobody says.
    let dry = Command::new(KNOCK).args(["-q", "server.example"]).env("HOME", &both.home).output();
    assert!(!stderr(&dry.unwrap()).contains("no port"));
}

#[test]
fn what_is_no_whole_line_makes_nothing() {
    let both = Both::new();
    let line = both.printed(&["laptop"]);
    let newer = line.replacen("-1,", "-2,", 1);
    let (cut, broken) = (&line[..line.len() / 2], line.replacen("port", "\nport", 1));
    let altered = line.replacen("port=22", "port=23", 1);
    for (input, parts) in [
        (
            "",
            &[
                "nothing came",
                "knock: fix: ssh root@host knock-genprofile --print NAME | knock --import host",
            ][..],
        ),
        ("\n \n", &["nothing came"]),
        (
            "knock-genprofile: command not found\n",
            &["no line of knock-genprofile --print", "fix: "],
        ),
        (cut, &["cut or altered", "fix: copy the whole line"]),
        (&broken, &["cut or altered"]),
        (&altered, &["cut or altered"]),
        (&newer, &["made by a newer knock-genprofile", "fix: install the server's version"]),
        (&format!("{line}{line}"), &["more than one profile"]),
        (&"x\n".repeat(40_000), &["more than 65536 bytes"]),
    ] {
        assert_refused(&both, &both.import(&["host"], input), &line, parts);
        assert_eq!(tree(&both.home), [""; 0], "{input:?}");
    }
    let mut no_stdin = both.command(&["--import", "host"]);
    assert_refused(
        &both,
        &no_stdin.stdin(Stdio::null()).output().unwrap(),
        &line,
        &["nothing came"],
    );
    let closed = Command::new("sh")
        .args(["-c", "exec \"$0\" --import host <&-", KNOCK])
        .env("HOME", &both.home)
        .output();
    assert_refused(&both, &closed.unwrap(), &line, &["standard input"]);
    assert_eq!(tree(&both.home), [""; 0]);
    // The line is as good as it was.
    assert!(both.import(&["host"], &line).status.success());
}

#[test]
fn a_name_that_no_profile_may_have_is_wrong_usage() {
    let both = Both::new();
    let line = both.printed(&["laptop"]);
    for host in
        ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a\nb", "a\u{1b}[2J", "host:22", "$(id)"]
    {
        let refused = both.import(&[host], &line);
        assert_eq!(refused.status.code(), Some(2), "{host:?}: {refused:?}");
        assert_shows_no_key(&refused, &line);
        assert!(!stderr(&refused).contains("\u{1b}[2J"), "{host:?}");
    }
    assert_eq!(tree(&both.home), [""; 0]);
}

#[test]
fn a_profile_that_is_there_is_not_overwritten() {
    let both = Both::new();
    assert!(both.import(&["host"], &both.printed(&["one"])).status.success());
    let (before, secret) = (tree(&both.home), both.read("host/secret.key"));
    let refused = both.import(&["host"], &both.printed(&["two"]));
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains(".knockknock/host\" exists\nknock: fix: --replace "), "{said}");
    assert_eq!((tree(&both.home), both.read("host/secret.key")), (before, secret));
}

#[test]
fn classic_is_replaced_by_stealth_and_back_and_the_old_one_is_kept() {
    let both = Both::new();
    assert!(both.import(&["host"], &both.printed(&["old", "666"])).status.success());
    let config = "[main]\nknock_port = 666\nport = 2222\naddress = 192.0.2.1\n";
    fs::write(both.profile("host/config"), config).unwrap();
    fs::write(both.profile("host/counter"), "7\n").unwrap();

    let replaced = both.import(&["host", "--replace"], &both.printed(&["new"]));
    assert!(replaced.status.success(), "{replaced:?}");
    let said = stderr(&replaced);
    assert!(
        said.contains(
            ".old-host\" now, with its address = 192.0.2.1; when it works, remove that: rm -r "
        ),
        "{said}"
    );
    let new = "[main]\nlayout = stealth\nport = 22\naddress = \"192.0.2.1\"\n\n";
    assert_eq!(both.read("host/config"), new);
    assert_eq!([both.read(".old-host/config"), both.read(".old-host/counter")], [config, "7\n"]);
    assert_eq!(mode(&both.profile("host")), 0o700);

    let back = both.import(&["host", "--replace"], &both.printed(&["again", "667"]));
    assert!(back.status.success(), "{back:?}");
    assert!(both.read("host/config").starts_with("[main]\nknock_port = 667\n"));
    assert_eq!([both.read(".old-host/config"), both.read(".old-host.2/config")], [config, new]);
    // A hidden one is no profile.
    let list = Command::new(KNOCK).arg("--list").env("HOME", &both.home).output().unwrap();
    assert_eq!(String::from_utf8(list.stdout).unwrap().lines().count(), 2);
    // Where there is nothing to replace, it is made.
    assert!(both.import(&["other", "--replace"], &both.printed(&["third"])).status.success());
    assert_eq!(tree(&both.profile("other")), ["config", "counter", "secret.key"]);
}

#[test]
fn what_cannot_be_written_leaves_nothing_and_what_was_there() {
    let both = Both::new();
    let line = both.printed(&["laptop"]);
    // As on a disk without room: every write to a file fails.
    let full = |arguments: &[&str]| {
        let shell = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", shell, KNOCK, "--import"]).args(arguments).env("HOME", &both.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        fed(&mut command, &line)
    };
    assert_refused(&both, &full(&["host"]), &line, &[".knockknock/.new", "File too large"]);
    assert_eq!(tree(&both.home), [".knockknock"]);
    assert!(both.import(&["host"], &line).status.success());
    let before = tree(&both.home);
    let secret = both.read("host/secret.key");
    assert_eq!(full(&["host", "--replace"]).status.code(), Some(1));
    assert_eq!((tree(&both.home), both.read("host/secret.key")), (before, secret));

    // A file in place of the directory: nobody can write there, root neither.
    let both = Both::new();
    fs::write(both.profiles(), "").unwrap();
    let refused = both.import(&["host"], &line);
    assert_refused(&both, &refused, &line, &[".knockknock\": "]);
    assert_eq!(tree(&both.home), [".knockknock"]);
}

#[test]
fn of_two_at_once_one_makes_it_and_both_are_whole() {
    for _ in 0..10 {
        let both = Both::new();
        let lines = [both.printed(&["one"]), both.printed(&["two", "666"])];
        let started = lines.each_ref().map(|line| {
            let mut knock = both.command(&["--import", "host"]).spawn().unwrap();
            knock.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
            knock
        });
        let done = started.map(|knock| knock.wait_with_output().unwrap());
        let made = done.iter().position(|output| output.status.success()).unwrap();
        assert!(stderr(&done[1 - made]).contains("exists"), "{done:?}");
        let files = [
            &["config", "counter", "secret.key"][..],
            &["cipher.key", "config", "counter", "mac.key"],
        ];
        assert_eq!(tree(&both.profile("host")), files[made]);
        assert_eq!(tree(&both.profiles()).len(), files[made].len() + 1, "nothing hidden is left");
    }
}

/// Somebody knocks, with keys and counter of one profile, while another is put in its place.
#[test]
fn there_is_a_whole_profile_at_every_moment_of_a_replacement() {
    let both = Both::new();
    assert!(both.import(&["host"], &both.printed(&["p0"])).status.success());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=10_u16 {
                let (name, port) = (format!("p{number}"), (600 + number).to_string());
                let classic = number % 2 == 1;
                let arguments: &[&str] = if classic { &[&name, &port] } else { &[&name] };
                assert!(
                    both.import(&["host", "--replace", "-q"], &both.printed(arguments))
                        .status
                        .success()
                );
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut loads = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) || loads == 0 {
            knockknock::profile::Profile::load(&both.profile("host")).expect("one of them, whole");
            loads += 1;
        }
    });
}

/// A program whose standard input is a terminal, seen from the other end.
struct AtTerminal {
    keyboard: File,
    terminal: File,
    knock: std::process::Child,
    said: File,
}

impl AtTerminal {
    /// Runs until it has said what to paste.
    fn prompted(both: &Both) -> Self {
        let pty = openpty(None, None).unwrap();
        let terminal = File::from(pty.slave);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        // Also where these tests were started with nohup, or in the background of a shell, which ignores Ctrl-C.
        let knock = Command::new("env")
            .args(["--default-signal=INT,TERM,HUP", KNOCK, "--import", "host"])
            .env("HOME", &both.home)
            .stdin(terminal.try_clone().unwrap())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap();
        let mut new = Self { keyboard: pty.master.into(), terminal, knock, said: reader.into() };
        assert!(
            new.line_said().contains("paste the line that knock-genprofile --print NAME printed")
        );
        new
    }

    fn line_said(&mut self) -> String {
        let mut said = Vec::new();
        let mut byte = [0];
        while said.last() != Some(&b'\n') && self.said.read(&mut byte).unwrap() == 1 {
            said.extend(byte);
        }
        String::from_utf8(said).unwrap()
    }

    fn shows_what_is_typed(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Everything that the terminal showed.
    fn screen(self) -> String {
        let Self { mut keyboard, terminal, .. } = self;
        drop(terminal);
        let mut screen = Vec::new();
        // A terminal without anybody at its other end is an error, behind what there is to read.
        let _ = keyboard.read_to_end(&mut screen);
        String::from_utf8(screen).unwrap()
    }
}

#[test]
fn at_a_terminal_it_says_what_to_paste_and_shows_nothing_of_it() {
    let both = Both::new();
    let line = both.printed(&["laptop"]);
    let mut at = AtTerminal::prompted(&both);
    assert!(!at.shows_what_is_typed(), "off before it says that one may paste");
    at.keyboard.write_all(format!("\n{line}").as_bytes()).unwrap();
    assert!(at.knock.wait().unwrap().success());
    assert!(at.line_said().contains("made the profile"));
    assert!(at.shows_what_is_typed(), "on again");
    assert_eq!(tree(&both.profile("host")), ["config", "counter", "secret.key"]);
    let screen = at.screen();
    assert!(!screen.contains("secret") && screen.trim().is_empty(), "{screen:?}");
}

#[test]
fn a_terminal_shows_again_what_is_typed_whatever_ends_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let both = Both::new();
        let mut at = AtTerminal::prompted(&both);
        kill(Pid::from_raw(at.knock.id().try_into().unwrap()), signal).unwrap();
        let status = at.knock.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
        assert!(at.shows_what_is_typed(), "{signal}");
        assert_eq!(tree(&both.home), [""; 0]);
    }
    let both = Both::new();
    let mut at = AtTerminal::prompted(&both);
    // Ctrl-D: nothing more comes.
    at.keyboard.write_all(&[4]).unwrap();
    assert_eq!(at.knock.wait().unwrap().code(), Some(1));
    assert!(at.line_said().contains("nothing came"));
    assert!(at.shows_what_is_typed());
}

#[test]
fn an_existing_profile_is_told_of_before_anybody_pastes() {
    let both = Both::new();
    assert!(both.import(&["host"], &both.printed(&["laptop"])).status.success());
    let pty = openpty(None, None).unwrap();
    let refused =
        both.command(&["--import", "host"]).stdin(File::from(pty.slave)).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(!stderr(&refused).contains("paste"), "{refused:?}");
}
