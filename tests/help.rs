//! `--help`, the README and the completions say the same, and `--help` fits a screen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::process::Command;

use clap::Parser;
use knockknock::client::command::cli::KnockCli;
use knockknock::client::proxy::cli::ProxyCli;

const PROGRAMS: [(&str, &str); 4] = [
    ("knock", env!("CARGO_BIN_EXE_knock")),
    ("knock-proxy", env!("CARGO_BIN_EXE_knock-proxy")),
    ("knock-daemon", env!("CARGO_BIN_EXE_knock-daemon")),
    ("knock-genprofile", env!("CARGO_BIN_EXE_knock-genprofile")),
];

fn print(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env_remove("COLUMNS").output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The options of a help text: `--name`, or `-n` where there is no long one.
fn options(help: &str) -> Vec<&str> {
    let listed = help.lines().filter(|line| line.trim_start().starts_with('-'));
    listed
        .map(|line| {
            let words = line.trim_start().split([' ', ',']).filter(|word| word.starts_with('-'));
            words.take(2).max_by_key(|word| word.starts_with("--")).unwrap()
        })
        .collect()
}

/// The words of a line as a shell parts it, as far as these examples need it: up to what ends a command.
fn words(line: &str) -> Vec<String> {
    let command = line.split(" && ").next().unwrap().split(" #").next().unwrap();
    // The help puts what an example does some blanks to its right.
    let command = command.split("   ").next().unwrap();
    command.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// The examples of a help: what follows "Examples:".
fn examples(help: &str) -> Vec<&str> {
    help.lines().skip_while(|line| *line != "Examples:").collect()
}

/// The lines of the code blocks of a README.
fn code(readme: &str) -> Vec<&str> {
    readme.split("```").skip(1).step_by(2).flat_map(str::lines).collect()
}

/// The calls of `program` in `lines`: at the beginning of one, before or behind a pipe, after sudo, on a server by ssh, or in a
/// `ProxyCommand`.
fn calls<'t>(lines: &[&'t str], program: &str) -> Vec<&'t str> {
    let begins = format!("{program} ");
    lines
        .iter()
        .flat_map(|line| line.split(" | "))
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("ssh root@server.example ").unwrap_or(line);
            let line = line.trim_start_matches('\'');
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            let line = line.strip_prefix("ProxyCommand ").unwrap_or(line);
            let quoted = line.split_once("ProxyCommand='").map(|(_, rest)| rest);
            let line = quoted.and_then(|rest| rest.split('\'').next()).unwrap_or(line);
            line.starts_with(&begins).then_some(line)
        })
        .collect()
}

/// `%h` and `%p` are ssh's; it fills them in.
fn filled_in(line: &str) -> Vec<String> {
    words(&line.replace("%h", "host.example").replace("%p", "22"))
}

fn readme() -> String {
    document("README.md")
}

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn help_fits_a_screen_and_shows_examples() {
    for (name, program) in PROGRAMS {
        let help = print(program, &["--help"]);
        let lines = help.lines().count();
        assert!(lines <= 40, "{name} --help has {lines} lines");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{name} --help is too wide: {line}");
        }
        assert!(help.to_lowercase().contains("example"), "{name} --help shows no examples");
        let version = print(program, &["--version"]);
        assert_eq!(version, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_wrong_command_line_is_status_2_and_says_so() {
    for (name, program) in PROGRAMS {
        let output = Command::new(program).arg("--no-such-option").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--no-such-option") && said.contains("Usage"), "{name}: {said}");
    }
}

#[test]
fn a_standard_error_that_nobody_reads_ends_nothing() {
    // Each of these has something to say, and then its own status, not that of a panic.
    for (name, arguments) in [
        ("knock", &["--profiles", "/nonexistent", "-p", "22", "host"][..]),
        ("knock-proxy", &["--auth", "/nonexistent", "1080"]),
    ] {
        let program = PROGRAMS.iter().find(|(other, _)| *other == name).unwrap().1;
        let (reader, nobody_reads) = std::io::pipe().unwrap();
        drop(reader);
        let status = Command::new(program).args(arguments).stderr(nobody_reads).status().unwrap();
        assert_eq!(status.code(), Some(1), "{name}");
    }
}

#[test]
fn completions_know_every_option_of_the_help() {
    for (name, program) in &PROGRAMS[..2] {
        let help = print(program, &["--help"]);
        let options = options(&help);
        assert!(options.contains(&"--profiles") && options.contains(&"--verbose"), "{options:?}");
        for shell in ["bash", "zsh", "fish"] {
            let script = print(program, &["--completions", shell]);
            for option in &options {
                // fish writes them without their dashes.
                let found = script.contains(option)
                    || shell == "fish" && script.contains(option.trim_start_matches('-'));
                assert!(found, "{name}: {shell} does not complete {option}");
            }
        }
    }
}

#[test]
fn the_examples_of_the_help_and_of_the_readme_are_command_lines() {
    let (readme, recipes) = (readme(), document("docs/recipes.md"));
    let parses: [fn(Vec<String>) -> Option<clap::Error>; 2] = [
        |words| KnockCli::try_parse_from(words).err(),
        |words| ProxyCli::try_parse_from(words).err(),
    ];
    for ((name, program), parses) in PROGRAMS.into_iter().zip(parses) {
        let help = print(program, &["--help"]);
        let in_help = calls(&examples(&help), name);
        assert!(in_help.len() >= 2, "{in_help:?}");
        let in_documents = [&readme, &recipes].map(|text| calls(&code(text), name)).concat();
        for line in in_help.into_iter().chain(in_documents) {
            if let Some(error) = parses(filled_in(line)) {
                panic!("{line}: {error}");
            }
        }
    }
}

#[test]
fn the_readme_shows_how_ssh_knocks_by_itself() {
    assert!(readme().contains("ProxyCommand knock -W %h:%p"));
}

#[test]
fn the_recipes_and_the_readme_make_profiles_and_close_what_these_may_ask_for() {
    for name in ["README.md", "docs/recipes.md"] {
        let document = document(name);
        let lines = code(&document);
        let made = calls(&lines, "knock-genprofile");
        assert!(!made.is_empty(), "{name}");
        for line in made {
            let dir = tempfile::tempdir().unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"));
            command.arg("--config-dir").arg(dir.path()).args(&words(line)[1..]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            assert!(dir.path().join("config").exists(), "{line}");
        }
    }
    let recipes = document("docs/recipes.md");
    let guards = calls(&code(&recipes), "minimal-firewall.sh").join("\n");
    for line in calls(&code(&recipes), "knock-genprofile") {
        let words = words(line);
        let allow = words.iter().skip_while(|word| *word != "--allow").nth(1).unwrap();
        assert!(guards.contains(&format!("--only {allow}")), "nothing closes {allow}");
    }
}
