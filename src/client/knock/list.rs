//! What `knock --list` shows.

use std::fmt::Write;
use std::path::Path;

use super::error::KnockError;
use super::profile_match::listed_names;
use crate::counter::Counter;
use crate::layout::keys::Layout;
use crate::profile::files::ProfileFiles;

/// The profiles in `profiles`, a line each, after a line that names the columns. A profile that cannot be used
/// says why. Makes and changes nothing.
pub(crate) fn list(profiles: &Path) -> Result<String, KnockError> {
    let names = listed_names(profiles)?;
    let shown: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
    let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("HOST".len());
    let mut text = format!("{:width$}  KNOCK PORT       COUNTER  LAYOUT   ADDRESS\n", "HOST");
    for (name, shown) in names.iter().zip(&shown) {
        let _ = match row(&profiles.join(name)) {
            Ok(row) => writeln!(text, "{shown:width$}  {row}"),
            Err(error) => writeln!(text, "{shown:width$}  {error}"),
        };
    }
    Ok(text)
}

fn row(dir: &Path) -> Result<String, KnockError> {
    let files = ProfileFiles::read(dir)?;
    let profile = files.profile()?;
    let config = &profile.config;
    let knock_port = config.knock_port.map_or_else(|| "asked".to_owned(), |port| port.to_string());
    let counter = match config.layout {
        Layout::Classic => Counter::open(dir)?.read::<u32>()?.to_string(),
        Layout::Stealth => stealth_counter(files.counter())?,
    };
    let address = config.address.as_deref().unwrap_or(&profile.name);
    Ok(format!(
        "{knock_port:>10}  {counter:>12}  {}  {}",
        config.layout.name(),
        address.escape_debug()
    ))
}

/// The counter of a sender, which knows its clock alone until it has knocked.
fn stealth_counter(counter: Option<&Counter>) -> Result<String, KnockError> {
    let sender = counter.map(Counter::sender).transpose()?.unwrap_or_default();
    Ok(if sender.counter == 0 { "clock".to_owned() } else { sender.counter.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_layout_says_where_it_stands_and_no_file_is_made() {
        let profiles = tempfile::tempdir().unwrap();
        let profile = |name: &str, files: &[(&str, &str)]| {
            let dir = profiles.path().join(name);
            fs::create_dir(&dir).unwrap();
            for (file, content) in files {
                fs::write(dir.join(file), content).unwrap();
            }
        };
        let keys = [
            ("cipher.key", "HoCD3Bo5mY7IjLvEwJY9nQ==\n"),
            ("mac.key", "HNFz0K+tNUD67c7/gxNXjg==\n"),
        ];
        let classic =
            [keys[0], keys[1], ("config", "[main]\nknock_port = 666\naddress = 192.0.2.1\n")];
        profile("a", &[&classic[..], &[("counter", "42\n")]].concat());
        profile("b", &classic);
        let secret = ("secret.key", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n");
        let stealth = [secret, ("config", "[main]\nlayout = stealth\n")];
        profile("c", &stealth);
        for (name, counter) in
            [("d", "0\n"), ("e", "45824000003\n"), ("f", "46631321603 00000000045824000001 1\n")]
        {
            profile(name, &[&stealth[..], &[("counter", counter)]].concat());
        }
        profile("g", &[&stealth[..], &[("counter", "x\n")]].concat());

        let text = list(profiles.path()).unwrap();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["a", "666", "42", "classic", "192.0.2.1"]);
        assert_eq!(rows[3], ["c", "asked", "clock", "stealth", "c"]);
        assert_eq!(rows[4], ["d", "asked", "clock", "stealth", "d"]);
        assert_eq!(rows[5], ["e", "asked", "45824000003", "stealth", "e"]);
        assert_eq!(rows[6], ["f", "asked", "46631321603", "stealth", "f"]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("cannot open the counter"), "{}", lines[2]);
        assert!(lines[7].contains("other than one decimal number"), "{}", lines[7]);
        let layout = lines[0].find("LAYOUT");
        assert_eq!([lines[1].find("classic"), lines[5].find("stealth")], [layout; 2], "in columns");
        assert!(!profiles.path().join("c/counter").exists());
    }
}
