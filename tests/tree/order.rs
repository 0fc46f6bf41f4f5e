//! No cycles between files or directories, imports that name the defining file, and one name for one type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::graph::{Graph, cycles, graph};
use crate::source::{code, root, rust_files};

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

#[test]
fn no_file_is_used_by_what_it_uses() {
    let wrong = cycles(&graph_of_src());
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
    let wrong = cycles(&rooms);
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
