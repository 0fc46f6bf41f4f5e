//! Who may use what, and where `unsafe` may stand.

use std::collections::BTreeSet;

use crate::source::{code, dependencies, module_of, paths, root, rust_files};

/// A module of the crate, the modules and the crates it may use, and what it may never touch.
struct Rule {
    module: &'static str,
    modules: &'static [&'static str],
    crates: &'static [&'static str],
    never: &'static [&'static str],
    because: &'static str,
}

const NETWORK: &str = "net::{Tcp,Udp} sockets";

const RULES: &[Rule] = &[
    Rule {
        module: "syn",
        modules: &[],
        crates: &[],
        never: &["std::fs", "std::process", "std::time", NETWORK],
        because: "it is data",
    },
    Rule {
        module: "grant",
        modules: &[],
        crates: &["thiserror"],
        never: &["std::fs", "std::process", "std::time", NETWORK],
        because: "it is data, and what runs with a privilege uses it",
    },
    Rule {
        module: "layout",
        modules: &["syn"],
        crates: &["aes", "ctr", "ctutils", "hkdf", "hmac", "sha1", "sha2", "zeroize"],
        never: &["std::fs", "std::process", "std::time", NETWORK],
        because: "layouts are pure, so that they can be checked against vectors and fuzzed",
    },
    Rule {
        module: "counter",
        modules: &["layout"],
        crates: &["nix", "thiserror"],
        never: &["std::process", NETWORK],
        because: "both sides keep counters, so this must not know either",
    },
    Rule {
        module: "profile",
        modules: &["counter", "grant", "layout"],
        crates: &[
            "base64",
            "configparser",
            "getrandom",
            "nix",
            "sha2",
            "strsim",
            "thiserror",
            "zeroize",
        ],
        never: &["std::process::Command", NETWORK],
        because: "both sides read profiles, so this must not know either",
    },
    Rule {
        module: "privileged",
        modules: &["grant"],
        crates: &[
            "caps",
            "netlink_packet_core",
            "netlink_packet_netfilter",
            "nix",
            "seccompiler",
            "thiserror",
        ],
        never: &[NETWORK],
        because: "what runs with a privilege must be readable in a minute, and must never see a key, a profile or a log line",
    },
    Rule {
        module: "daemon",
        modules: &["counter", "grant", "layout", "privileged", "profile", "syn"],
        crates: &["clap", "landlock", "memchr", "nix", "notify", "seccompiler", "thiserror"],
        never: &["std::process::Command", NETWORK],
        because: "what reads strangers' packets starts no program and opens no socket",
    },
    Rule {
        module: "client",
        modules: &["counter", "layout", "profile", "syn"],
        crates: &[
            "caps",
            "clap",
            "clap_complete",
            "ctutils",
            "fast_socks5",
            "getrandom",
            "idna",
            "listenfd",
            "netlink_packet_core",
            "nix",
            "pnet",
            "strsim",
            "thiserror",
            "tokio",
            "zeroize",
        ],
        never: &[],
        because: "a client is installed on laptops: nothing of the server belongs there",
    },
    Rule {
        module: "trial",
        modules: &["client", "daemon", "layout", "profile", "syn"],
        crates: &["nix", "thiserror"],
        never: &[],
        because: "it is a program of its own, which root runs on demand; it plays both sides, and reads nothing from strangers but what comes from its own namespace",
    },
    Rule {
        module: "genprofile",
        modules: &["grant", "profile"],
        crates: &["clap", "nix"],
        never: &["std::process::Command", NETWORK],
        because: "it makes keys, and does nothing else",
    },
];

/// The only files in which `unsafe` may stand: Cargo.toml denies it in all others. Clippy asks for a SAFETY comment.
const UNSAFE_IN: &[&str] = &[
    // One system call that no crate here has a safe form of, for `--check` alone.
    "src/daemon/check/clock.rs",
    // In no build but the tests': what it does has no safe form, since nobody should do it.
    "src/daemon/misbehave.rs",
    "src/privileged/spawn.rs",
];

#[test]
fn every_module_uses_only_what_the_table_allows() {
    let dependencies = dependencies();
    let modules: BTreeSet<_> = RULES.iter().map(|rule| rule.module).collect();
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let module = module_of(&path);
        // misbehave.rs is in no build but the tests': what it does is what the table forbids.
        if module == "lib" || module == "bin" || path.ends_with("misbehave.rs") {
            continue;
        }
        let Some(rule) = RULES.iter().find(|rule| rule.module == module) else {
            panic!(
                "src/{module} is not in the table of tests/tree.rs: say there, and in docs/architecture.md, what it may use"
            );
        };
        for (number, line) in code(&path) {
            let mut complain = |what: &str| {
                let shown = path.strip_prefix(root()).unwrap().display();
                wrong.push(format!(
                    "{shown}:{number}: `{module}` may not use {what}: {}\n    {line}",
                    rule.because
                ));
            };
            for parts in paths(&line) {
                if parts[0] == "crate" && parts.len() > 1 {
                    let used = parts[1];
                    if used != module && modules.contains(used) && !rule.modules.contains(&used) {
                        complain(&format!("the module `{used}`"));
                    }
                } else if dependencies.contains(parts[0]) && !rule.crates.contains(&parts[0]) {
                    complain(&format!("the crate `{}`", parts[0]));
                }
            }
            // Grouped imports of our own modules would hide from the check above.
            if line.contains("crate::{") {
                complain(
                    "`crate::{…}`, which this test cannot read; import each module by a line of its own",
                );
            }
            for never in rule.never {
                let touched = if *never == NETWORK {
                    [
                        "TcpStream",
                        "TcpListener",
                        "UdpSocket",
                        "UnixStream",
                        "UnixListener",
                        "UnixDatagram",
                    ]
                    .iter()
                    .any(|socket| line.contains(socket))
                } else {
                    line.contains(never)
                };
                if touched {
                    complain(never);
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "\n{}\n\nThe table is in docs/architecture.md. Widening it is a decision: make it in both places, with its reason in the commit.\n",
        wrong.join("\n")
    );
}

#[test]
fn unsafe_is_allowed_only_where_a_reader_knows_to_look() {
    let allow = |(_, line): &(usize, String)| line.contains("unsafe_code");
    let files = rust_files(&root().join("src"));
    let files = files.iter().filter(|path| code(path).iter().any(allow));
    let allowed: Vec<_> =
        files.map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap()).collect();
    assert_eq!(
        allowed, UNSAFE_IN,
        "find a safe wrapper (nix, std), or change the list here, with the reason in the commit"
    );
}
