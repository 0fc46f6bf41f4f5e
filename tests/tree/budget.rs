//! How much code runs with a privilege.

use std::fs;
use std::path::Path;

use crate::privileged::{AtStart, PRIVILEGED, Privileged, START};
use crate::source::{code, root};

/// How many lines of code the functions of the first table may have in all, the loop itself, and those of the second. The
/// aim of the first was 250. What the kernel is told is written out attribute by attribute, which takes most of it: no
/// crate has expectations, and no program is run. SECURITY.md says the first and the last.
const BUDGET: usize = 700;
const LOOP_BUDGET: usize = 18;
const START_BUDGET: usize = 1820;

/// How far below its budget a number may be: a reader of SECURITY.md is to know how much there is.
const SLACK: usize = 60;

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
