//! Which file of `src` uses which, as far as their imports and paths say. No parser: `rustfmt` has the lines in one form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files that each file uses, all relative to `src`.
pub(crate) type Graph = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The graph of the files whose code `files` has: each with its path relative to `src`, and its lines without comments and
/// tests.
pub(crate) fn graph(files: &[(PathBuf, String)]) -> Graph {
    let modules: BTreeMap<Vec<String>, &Path> =
        files.iter().map(|(path, _)| (module_of(path), path.as_path())).collect();
    let used = |(path, code): &(PathBuf, String)| {
        let paths = used_paths(&module_of(path), code, &modules);
        let files = paths.iter().filter_map(|used| file_of(used, &modules));
        (path.clone(), files.filter(|used| used != path).map(Path::to_owned).collect())
    };
    files.iter().map(used).collect()
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut parts: Vec<String> =
        path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The file of the innermost module that a path names.
fn file_of<'m>(path: &[String], modules: &BTreeMap<Vec<String>, &'m Path>) -> Option<&'m Path> {
    (1..=path.len()).rev().find_map(|length| modules.get(&path[..length]).copied())
}

/// The paths within the crate that the code of `module` has, from the crate's root on.
fn used_paths(
    module: &[String],
    code: &str,
    modules: &BTreeMap<Vec<String>, &Path>,
) -> Vec<Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut paths = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let at = statement.find("use ");
        let Some(at) = at.filter(|at| is_use(&statement[..*at], &statement[at + 4..])) else {
            rest.push_str(statement);
            continue;
        };
        rest.push_str(&statement[..at]);
        for path in expanded(&without_aliases(statement[at + 4..].trim_end_matches(';'))) {
            if let Some(path) = absolute(module, &path, &names, modules) {
                names.insert(path.last().unwrap().clone(), path.clone());
                paths.push(path);
            }
        }
    }
    let words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    for word in words.filter(|word| word.contains("::")) {
        let path: Vec<String> =
            word.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        paths.extend(absolute(module, &path, &names, modules));
    }
    paths
}

/// Whether a `use` between these is a statement, and no word of a text.
fn is_use(before: &str, after: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap();
    let is_tree = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_:{},*;".contains(c);
    (line.trim().is_empty() || line.trim_start().starts_with("pub")) && after.chars().all(is_tree)
}

/// The tree of a `use` without blanks and without what follows `as`.
fn without_aliases(tree: &str) -> String {
    let mut words = tree.split_whitespace();
    let mut rest = String::new();
    while let Some(word) = words.next() {
        match word {
            "as" => rest.extend(
                words.next().and_then(|alias| alias.find([',', '}']).map(|at| &alias[at..])),
            ),
            word => rest.push_str(word),
        }
    }
    rest
}

/// The paths of a `use` without blanks: `a::{b,c::{self,d}}` is `a::b`, `a::c`, `a::c::d`.
fn expanded(tree: &str) -> Vec<Vec<String>> {
    let Some((before, group)) = tree.split_once('{') else {
        return vec![tree.split("::").filter(|part| *part != "self").map(str::to_owned).collect()];
    };
    let group = group.strip_suffix('}').unwrap();
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.flat_map(|part| expanded(&format!("{before}{part}"))).collect()
}

/// A path as it stands in `module`, from the crate's root on. None: it is another crate's, or no path of modules.
fn absolute(
    module: &[String],
    path: &[String],
    names: &BTreeMap<String, Vec<String>>,
    modules: &BTreeMap<Vec<String>, &Path>,
) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let child = || [module, std::slice::from_ref(first)].concat();
    let base = match first.as_str() {
        "crate" => vec![],
        "self" => module.to_vec(),
        "super" => {
            let above = &module[..module.len() - 1];
            return absolute(above, &[&["self".to_owned()], rest].concat(), names, modules);
        }
        name if names.contains_key(name) => names[name].clone(),
        _ if modules.contains_key(&child()) => child(),
        _ => return None,
    };
    match rest.first().map(String::as_str) {
        Some("super") => absolute(&base, rest, names, modules),
        _ => Some([&base[..], rest].concat()),
    }
}

/// The groups of more than one node in which each leads to each other.
pub(crate) fn cycles<N: Ord + Clone>(graph: &BTreeMap<N, BTreeSet<N>>) -> Vec<Vec<N>> {
    let reached = |from: &N| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            next.extend(graph[node].iter().filter(|node| reached.insert((*node).clone())));
        }
        reached
    };
    let reached: BTreeMap<&N, BTreeSet<N>> =
        graph.keys().map(|node| (node, reached(node))).collect();
    let groups = graph.keys().map(|node| {
        let back = |other: &&N| reached[*other].contains(node);
        reached[node].iter().filter(back).cloned().collect::<Vec<_>>()
    });
    groups.filter(|group| group.len() > 1).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn paths_are_found_whatever_form_they_have() {
    let code = "use std::fs;\nuse super::{c::{self, D}, e::F};\npub(crate) use crate::g::H as I;\nmod k;\n\
                const T: &str = \"a; use b::{\";\nuse k::L;\nfn f() {\n    c::m(fs::read);\n    crate::n::o();\n    super::super::p::q();\n}\n";
    let file = |path: &str, code: &str| (PathBuf::from(path), code.to_owned());
    let others = ["a/c.rs", "a/e.rs", "g.rs", "a/b/k.rs", "n/mod.rs", "p.rs", "fs.rs", "a/mod.rs"];
    let mut files: Vec<_> = others.into_iter().map(|path| file(path, "")).collect();
    files.push(file("a/b/mod.rs", code));
    let used = &graph(&files)[Path::new("a/b/mod.rs")];
    let used: Vec<_> = used.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(used, ["a/b/k.rs", "a/c.rs", "a/e.rs", "g.rs", "n/mod.rs", "p.rs"]);
}

#[test]
fn cycles_are_found_and_nothing_else_is() {
    let edges =
        [(1, vec![2]), (2, vec![3, 5]), (3, vec![1]), (4, vec![1]), (5, vec![6]), (6, vec![])];
    let graph = edges.into_iter().map(|(from, to)| (from, to.into_iter().collect())).collect();
    assert_eq!(cycles(&graph), [[1, 2, 3]]);
}
