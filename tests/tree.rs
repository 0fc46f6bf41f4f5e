//! Checks the dependency rules of docs/architecture.md: who may use what, no cycles between files or directories, one name
//! for one type, where `unsafe` is allowed, and how much code runs with a privilege. A failure names the line and the
//! reason for the rule.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_collect,
    clippy::print_stdout,
    reason = "a test that cannot go on stops"
)]

#[path = "tree/graph.rs"]
mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use graph::{Graph, cycles, graph};

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
        crates: &["aes", "ctr", "ctutils", "hmac", "sha1", "zeroize"],
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
        crates: &["base64", "configparser", "getrandom", "nix", "strsim", "thiserror", "zeroize"],
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

/// The rooms whose files still use each other in circles.
const CYCLES_LEFT: &[&str] = &["client"];

/// The only files in which `unsafe` may stand: Cargo.toml denies it in all others. Clippy asks for a SAFETY comment.
const UNSAFE_IN: &[&str] = &[
    // One system call that no crate here has a safe form of, for `--check` alone.
    "src/daemon/check/clock.rs",
    // In no build but the tests': what it does has no safe form, since nobody should do it.
    "src/daemon/misbehave.rs",
    "src/privileged/spawn.rs",
];

/// The functions that the helper's loop reaches once a stranger's bytes may have reached whoever asks it, and those of
/// the same files that it does not: they run before, at the other end of the pipe, or only to word a complaint.
struct Privileged {
    file: &'static str,
    reached: &'static [&'static str],
    not_reached: &'static [&'static str],
}

const PRIVILEGED: &[Privileged] = &[
    Privileged {
        file: "src/privileged/helper.rs",
        reached: &[
            "answer_requests",
            "answer_open",
            "answer_close",
            "answer_rules",
            "answer",
            "next_message",
            "LoopEnd::from",
        ],
        not_reached: &[],
    },
    Privileged {
        file: "src/privileged/message.rs",
        // `Message::decode` encodes again, to see that nothing is left over.
        reached: &[
            "Message::encode",
            "Message::decode",
            "Grant::encode",
            "Grant::decode",
            "Reply::encode",
            "in_16",
            "address_in",
            "numbers_into",
            "numbers_in",
        ],
        not_reached: &["Reply::decode"],
    },
    Privileged {
        file: "src/privileged/limits.rs",
        reached: &["Limits::check", "is_one_host"],
        not_reached: &[],
    },
    Privileged {
        file: "src/grant.rs",
        reached: &["Grant::is_for_the_same", "Service::contains"],
        not_reached: &[
            "Service::tcp",
            "Service::is_in",
            "Service::overlaps",
            "Service::from_str",
            "port",
            "Protocol::fmt",
            "Service::fmt",
            "listed",
        ],
    },
    Privileged {
        file: "src/privileged/grants.rs",
        reached: &[
            "Grants::new",
            "Grants::with_room",
            "Grants::room_for",
            "Grants::record",
            "Grants::forget",
            "source_of",
        ],
        not_reached: &[],
    },
    Privileged {
        file: "src/privileged/firewall/mod.rs",
        reached: &[
            "Firewall::open",
            "Firewall::close",
            "Firewall::close_all",
            "Firewall::table",
            "Firewall::is_ours",
        ],
        not_reached: &[
            "Firewall::create",
            "Firewall::guard",
            "Firewall::has_table",
            "Firewall::conntrack_helpers",
            "Firewall::sockets",
            "Firewall::replace_sockets",
            "FirewallError::from",
        ],
    },
    Privileged {
        file: "src/privileged/firewall/conntrack.rs",
        reached: &[
            "Expectations::open",
            "Expectations::close",
            "Expectations::close_all",
            "Expectations::make",
            "Expectations::renew",
            "Expectations::revoke",
            "Expectations::helper",
            "Expectations::master",
            "Master::tuple",
            "Master::attributes",
            "Grant::tuple",
            "expectation",
            "tuple",
            "tell",
        ],
        not_reached: &[
            "Expectations::new",
            "Expectations::helpers",
            "Expectations::find",
            "Expectations::try_out",
        ],
    },
    Privileged {
        file: "src/privileged/firewall/route.rs",
        reached: &["RouteSocket::is_local", "route_request", "is_local_route"],
        not_reached: &["RouteSocket::open", "RouteSocket::replace_socket", "RouteSocket::as_fd"],
    },
    Privileged {
        file: "src/privileged/firewall/attribute.rs",
        reached: &["bytes", "number", "long_number", "text", "nested", "list"],
        not_reached: &[],
    },
    Privileged {
        file: "src/privileged/firewall/nftables.rs",
        reached: &[
            "Table::open",
            "Table::close",
            "Table::expect",
            "Table::forget",
            "Table::change_numbers",
            "Table::log_ports",
            "Table::unguard",
            "Table::element",
            "unless_gone",
        ],
        not_reached: &["Table::create", "Table::guard", "explain", "at_message"],
    },
    Privileged {
        file: "src/privileged/firewall/object.rs",
        reached: &["key", "timeout", "condition", "elements", "command", "delete_chain"],
        not_reached: &[
            "new_set",
            "new_dynamic_set",
            "set_timeout",
            "set_note",
            "new_table",
            "delete_table",
            "new_chain",
            "new_target",
            "new_rule",
        ],
    },
    Privileged {
        file: "src/privileged/firewall/guard.rs",
        reached: &["delete"],
        not_reached: &["Guard::fits", "create", "to_service", "closed", "from_network", "through"],
    },
    Privileged {
        file: "src/privileged/firewall/netlink.rs",
        reached: &[
            "BatchError::from",
            "Command::new",
            "Command::control",
            "Netlink::transact",
            "Netlink::tell",
            "Netlink::exchange",
            "Netlink::push",
            "Netlink::answers",
            "read_answers",
            "Acknowledged::none_of",
            "Acknowledged::count",
            "Acknowledged::whole",
        ],
        not_reached: &[
            "Netlink::open",
            "Netlink::replace_socket",
            "Netlink::list_tables",
            "Netlink::as_fd",
        ],
    },
    Privileged {
        file: "src/privileged/firewall/expression.rs",
        reached: &["limit_to_one", "limit", "expression"],
        not_reached: &[
            "payload_load",
            "destination_port",
            "tcp_flags",
            "meta_load",
            "meta_set",
            "ct_load",
            "ct_set",
            "bitwise",
            "cmp",
            "lookup",
            "daddr_type",
            "update",
            "log",
            "immediate",
            "accept",
            "goto",
            "reject_with_reset",
            "reject_as_unreachable",
            "is_of_protocol",
            "is_syn",
            "verdict",
            "data",
            "numbers",
        ],
    },
];

/// Which functions of a file run as root at the start.
enum AtStart {
    /// All but these, which run later or for `--check` alone, or word a complaint.
    AllBut(&'static [&'static str]),
    /// These alone. The others run later.
    Only(&'static [&'static str]),
}

/// What runs as root before the daemon and its helper have dropped that, with the nftables back end, beside what the
/// helper's loop reaches too and what is counted above. None of it has read a byte of a stranger's, and none of it looks
/// into a profile or a log.
const START: &[(&str, AtStart)] = &[
    ("src/bin/knock-daemon.rs", AtStart::AllBut(&[])),
    ("src/lib.rs", AtStart::AllBut(&[])),
    ("src/daemon/mod.rs", AtStart::AllBut(&[])),
    ("src/daemon/start.rs", AtStart::AllBut(&["root", "watch", "say_listening"])),
    ("src/daemon/settings.rs", AtStart::AllBut(&[])),
    ("src/daemon/user.rs", AtStart::AllBut(&[])),
    ("src/daemon/lock.rs", AtStart::AllBut(&[])),
    ("src/daemon/process_limits.rs", AtStart::AllBut(&[])),
    ("src/daemon/signals.rs", AtStart::AllBut(&[])),
    ("src/daemon/own_firewall.rs", AtStart::AllBut(&["try_to_create"])),
    ("src/daemon/load_profiles.rs", AtStart::Only(&["read_files", "say_left_out"])),
    ("src/daemon/guard.rs", AtStart::AllBut(&[])),
    (
        "src/daemon/confirmed_guard.rs",
        AtStart::AllBut(&["ConfirmedGuard::closes", "ConfirmedGuard::text"]),
    ),
    ("src/daemon/config.rs", AtStart::AllBut(&[])),
    ("src/daemon/say.rs", AtStart::Only(&["event", "line"])),
    (
        "src/daemon/log_source/mod.rs",
        AtStart::Only(&["LogChoice::from_str", "OpenedLog::open", "is_written", "booted"]),
    ),
    (
        "src/daemon/log_source/file.rs",
        AtStart::Only(&[
            "OpenedFile::open",
            "OpenedFile::path",
            "OpenedFile::leads_to",
            "OpenedFile::group",
            "group_that_opens",
        ]),
    ),
    ("src/daemon/log_source/open.rs", AtStart::AllBut(&[])),
    ("src/daemon/log_source/resolved_path.rs", AtStart::AllBut(&[])),
    (
        "src/daemon/log_source/tail.rs",
        AtStart::Only(&["Tail::from_beginning", "Tail::from_end", "Tail::move_to", "offset"]),
    ),
    ("src/daemon/log_source/kmsg.rs", AtStart::Only(&["KmsgLog::open"])),
    ("src/profile/mod.rs", AtStart::Only(&["names"])),
    ("src/profile/checked_file.rs", AtStart::AllBut(&[])),
    ("src/profile/files.rs", AtStart::Only(&["ProfileFiles::read_of_root", "ProfileFiles::read"])),
    ("src/grant.rs", AtStart::Only(&["Service::from_str", "port"])),
    ("src/profile/ini.rs", AtStart::AllBut(&[])),
    ("src/profile/preprocess.rs", AtStart::AllBut(&[])),
    ("src/profile/roots.rs", AtStart::AllBut(&[])),
    ("src/counter.rs", AtStart::Only(&["Counter::open", "Counter::metadata"])),
    ("src/privileged/spawn.rs", AtStart::AllBut(&["serve", "report"])),
    (
        "src/privileged/handle.rs",
        AtStart::Only(&["HelperHandle::new", "HelperHandle::when_ready", "HelperGone::from"]),
    ),
    ("src/privileged/drop_privileges.rs", AtStart::AllBut(&[])),
    ("src/privileged/seccomp.rs", AtStart::AllBut(&[])),
    ("src/privileged/firewall/nftables.rs", AtStart::Only(&["Table::create", "Table::guard"])),
    (
        "src/privileged/firewall/netlink.rs",
        AtStart::Only(&["Netlink::open", "Netlink::replace_socket", "Netlink::as_fd"]),
    ),
    ("src/privileged/firewall/ruleset.rs", AtStart::AllBut(&[])),
    ("src/privileged/firewall/guard.rs", AtStart::AllBut(&["delete"])),
    (
        "src/privileged/firewall/mod.rs",
        AtStart::Only(&[
            "Firewall::create",
            "Firewall::guard",
            "Firewall::has_table",
            "Firewall::conntrack_helpers",
            "Firewall::sockets",
            "Firewall::replace_sockets",
            "FirewallError::from",
        ]),
    ),
    (
        "src/privileged/firewall/conntrack.rs",
        AtStart::Only(&[
            "Expectations::new",
            "Expectations::helpers",
            "Expectations::find",
            "Expectations::try_out",
        ]),
    ),
    (
        "src/privileged/firewall/route.rs",
        AtStart::Only(&["RouteSocket::open", "RouteSocket::replace_socket", "RouteSocket::as_fd"]),
    ),
    ("src/privileged/firewall/log_rules.rs", AtStart::AllBut(&[])),
    (
        "src/privileged/firewall/object.rs",
        AtStart::AllBut(&["key", "timeout", "condition", "elements", "command", "delete_chain"]),
    ),
    (
        "src/privileged/firewall/expression.rs",
        AtStart::AllBut(&["limit_to_one", "limit", "expression"]),
    ),
];

/// How many lines of code the functions of the first table may have in all, the loop itself, and those of the second. The
/// aim of the first was 250. What the kernel is told is written out attribute by attribute, which takes most of it: no
/// crate has expectations, and no program is run. SECURITY.md says the first and the last.
const BUDGET: usize = 700;
const LOOP_BUDGET: usize = 18;
const START_BUDGET: usize = 1820;

/// How far below its budget a number may be: a reader of SECURITY.md is to know how much there is.
const SLACK: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The lines of a file that are code of the program: no comments, nothing from `#[cfg(test)]` on (tests stand last).
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let without_comment =
        |line: &str| line.split("//").next().unwrap_or_default().trim().to_owned();
    let numbered = program.lines().enumerate().map(|(nth, line)| (nth + 1, without_comment(line)));
    numbered.filter(|(_, line)| !line.is_empty()).collect()
}

/// The identifiers that stand before `::` in a line, as whole paths: `a::b::c` gives `a::b`, `a`.
fn paths(line: &str) -> Vec<Vec<&str>> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.contains("::"))
        .map(|word| word.split("::").filter(|part| !part.is_empty()).collect())
        .collect()
}

fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.split([' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

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

/// The files of `src` but the programs' `main`s, and which they use.
fn graph_of_src() -> Graph {
    let src = root().join("src");
    let files = rust_files(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")));
    let with_code = files.map(|path| {
        let lines: Vec<_> = code(&path).into_iter().map(|(_, line)| line).collect();
        (path.strip_prefix(&src).unwrap().to_owned(), lines.join("\n"))
    });
    graph(&with_code.collect::<Vec<_>>())
}

/// The directory that a file is in, or what it is alone. A `mod.rs` that nothing in its room uses stands above the room:
/// it is its door.
fn room(file: &Path, uses: &Graph) -> PathBuf {
    let dir = file.parent().unwrap();
    let is_in_it = |(other, used): (&PathBuf, &BTreeSet<PathBuf>)| {
        other.parent() == Some(dir) && used.contains(file)
    };
    let is_door = file.ends_with("mod.rs") && !uses.iter().any(is_in_it);
    if is_door || dir == Path::new("") { file.to_owned() } else { dir.to_owned() }
}

fn is_left(group: &[PathBuf]) -> bool {
    CYCLES_LEFT.iter().any(|room| group.iter().all(|file| file.starts_with(room)))
}

#[test]
fn no_file_is_used_by_what_it_uses() {
    let (left, wrong): (Vec<_>, Vec<_>) =
        cycles(&graph_of_src()).into_iter().partition(|group| is_left(group));
    println!("files that use each other in circles, left for now: {left:#?}");
    assert!(
        wrong.is_empty(),
        "these files use each other in circles: {wrong:#?}\nMove what they share into a file below them"
    );
}

#[test]
fn no_room_is_used_by_what_it_uses() {
    let graph = graph_of_src();
    let mut rooms: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (file, used) in &graph {
        let here = room(file, &graph);
        let used = used.iter().map(|file| room(file, &graph)).filter(|room| *room != here);
        rooms.entry(here.clone()).or_default().extend(used);
    }
    let (left, wrong): (Vec<_>, Vec<_>) =
        cycles(&rooms).into_iter().partition(|group| is_left(group));
    println!("rooms that use each other in circles, left for now: {left:#?}");
    assert!(
        wrong.is_empty(),
        "these rooms use each other in circles: {wrong:#?}\nA lower one must not know what is built on it"
    );
}

#[test]
fn an_import_names_the_file_that_defines_what_it_imports() {
    let files = rust_files(&root().join("src"));
    let exports = |(_, line): &(usize, String)| line.starts_with("pub") && line.contains("use ");
    let wrong: Vec<_> = files.iter().filter(|path| code(path).iter().any(exports)).collect();
    assert!(wrong.is_empty(), "these export another file's items: {wrong:#?}");
}

#[test]
fn no_two_types_have_one_name() {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in program.lines().filter(|line| !line.starts_with(' ')) {
            let declared = line.split(' ').skip_while(|word| word.starts_with("pub"));
            let [kind, name] = declared.chain(["", ""]).collect::<Vec<_>>()[..2] else { continue };
            if ["struct", "enum", "union", "trait", "type"].contains(&kind) {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                let shown = path.strip_prefix(root()).unwrap().display().to_string();
                types.entry(name.to_owned()).or_default().push(shown);
            }
        }
    }
    types.retain(|_, files| files.len() > 1);
    assert!(
        types.is_empty(),
        "more than one type has the same name: {types:#?}\nWho reads a log or a trace has the name alone"
    );
}

#[test]
fn unsafe_is_allowed_only_where_a_reader_knows_to_look() {
    let allow = |(_, line): &(usize, String)| line.contains("unsafe_code");
    let files = rust_files(&root().join("src"));
    let files = files.iter().filter(|path| code(path).iter().any(allow));
    // Until the last of them is gone: `forbid` says again what Cargo.toml says.
    let files = files.filter(|path| !code(path).iter().any(|(_, line)| line.contains("forbid(")));
    let allowed: Vec<_> =
        files.map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap()).collect();
    assert_eq!(
        allowed, UNSAFE_IN,
        "find a safe wrapper (nix, std), or change the list here, with the reason in the commit"
    );
}

/// How many lines the function has that `#[from]` on a variant stands for, written out.
const DERIVED_FROM: usize = 3;

/// The functions of a file with the lines of code that each has, derived conversions too. Several of one name are one
/// entry each.
fn functions(path: &Path) -> Vec<(String, usize)> {
    let mut functions: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut inside, mut of) = (0_i32, None, String::new());
    for (_, line) in code(path) {
        if let Some(block) = line.strip_prefix("impl ") {
            of = block.trim_end_matches(" {").rsplit(' ').next().unwrap().to_owned() + "::";
        } else if let Some((_, name)) = line.split_once("enum ").filter(|_| depth == 0) {
            of = name.trim_end_matches(" {").to_owned() + "::";
        } else if depth == 0 {
            of.clear();
        }
        if line.contains("#[from]") {
            functions.push((format!("{of}from"), DERIVED_FROM));
        }
        let opens = i32::try_from(line.matches('{').count()).unwrap();
        let closes = i32::try_from(line.matches('}').count()).unwrap();
        if inside.is_none()
            && let Some((before, after)) = line.split_once("fn ")
            && (before.is_empty() || before.starts_with("pub"))
        {
            let name = after.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
            functions.push((format!("{of}{name}"), 0));
            inside = Some(depth);
        }
        depth += opens - closes;
        if let Some(outside) = inside {
            functions.last_mut().unwrap().1 += 1;
            // The signature may take several lines; the body ends where the depth is back.
            if depth == outside && closes > 0 && (opens > 0 || line.starts_with('}')) {
                inside = None;
            }
        }
    }
    functions
}

#[test]
fn what_runs_with_a_privilege_stays_within_its_budget() {
    let mut counted = Vec::new();
    for Privileged { file, reached, not_reached } in PRIVILEGED {
        for (name, lines) in functions(&root().join(file)) {
            if reached.contains(&name.as_str()) {
                counted.push((lines, format!("{file}: {name}")));
            } else {
                assert!(
                    not_reached.contains(&name.as_str()),
                    "{file} has a new function, `{name}`. Does the helper's loop reach it? Say so in tests/tree.rs: what it reaches is counted, because people read it before they trust it"
                );
            }
        }
    }
    let total: usize = counted.iter().map(|(lines, _)| lines).sum();
    println!("in the helper's loop: {total} lines of code");
    assert!(
        (BUDGET - SLACK..=BUDGET).contains(&total),
        "the code that runs with a privilege has {total} lines, {BUDGET} are allowed and at most {SLACK} fewer, so that SECURITY.md says what is so: {counted:#?}\nPeople read it before they trust it: move what needs no privilege to the daemon's side, or raise the budget here with the reason in the commit"
    );
    let (lines, _) = counted.iter().find(|(_, name)| name.ends_with(": answer_requests")).unwrap();
    assert!(
        (1..=LOOP_BUDGET).contains(lines),
        "the helper's loop has {lines} lines, {LOOP_BUDGET} are allowed: it must fit into one look"
    );
}

#[test]
fn what_runs_as_root_at_the_start_stays_within_its_budget() {
    let mut counted = Vec::new();
    for (file, which) in START {
        let functions = functions(&root().join(file));
        let (AtStart::AllBut(named) | AtStart::Only(named)) = which;
        for name in *named {
            assert!(
                functions.iter().any(|(function, _)| function == name),
                "{file} has no function `{name}` any more: say in tests/tree.rs what runs as root in its place"
            );
        }
        let is_counted = |name: &str| match which {
            AtStart::AllBut(named) => !named.contains(&name),
            AtStart::Only(named) => named.contains(&name),
        };
        counted.extend(
            functions
                .into_iter()
                .filter(|(name, _)| is_counted(name))
                .map(|(name, lines)| (lines, format!("{file}: {name}"))),
        );
    }
    let total: usize = counted.iter().map(|(lines, _)| lines).sum();
    println!("as root at the start: {total} lines of code");
    assert!(
        (START_BUDGET - SLACK..=START_BUDGET).contains(&total),
        "the code that runs as root at the start has {total} lines, {START_BUDGET} are allowed and at most {SLACK} fewer, so that SECURITY.md says what is so: {counted:#?}\nMove what needs no root behind the drop, or change the budget here and the text there, with the reason in the commit"
    );
}

#[test]
fn the_text_says_how_much_runs_with_a_privilege() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for budget in [BUDGET, START_BUDGET] {
        let says = format!("at most {budget} lines");
        assert!(text.contains(&says), "SECURITY.md does not say {says:?}");
    }
}

/// `scripts/test.sh` builds it for the tests; a release that does what a stranger's knock says must not come to be.
#[test]
fn a_misbehaving_daemon_cannot_be_built_for_use() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let refusal = "#[cfg(all(feature = \"misbehave\", not(debug_assertions)))]\ncompile_error!(";
    assert!(text.contains(refusal), "src/lib.rs lets a release be built with `misbehave`");
}

#[test]
fn the_line_counter_of_this_test_counts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "fn a() {\n    // no\n    b();\n}\n\nimpl X for Y {\n    pub(super) fn c(\n        d: E,\n    ) -> F {\n        match d {\n            _ => {}\n        }\n    }\n}\nfn g() {}\npub enum H {\n    #[error(\"i\")]\n    J(#[from] K),\n}\n";
    fs::write(file.path(), text).unwrap();
    assert_eq!(
        functions(file.path()),
        [("a", 3), ("Y::c", 7), ("g", 1), ("H::from", DERIVED_FROM)]
            .map(|(name, lines)| (name.to_owned(), lines))
    );
}
