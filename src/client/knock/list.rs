//! What `knock --list` shows.

use std::fmt::Write;
use std::path::Path;

use super::error::KnockError;
use super::knocker::Knocker;
use super::profile_match::listed_names;

/// The profiles in `profiles`, a line each, after a line that names the columns. A profile that cannot be used
/// says why.
pub(crate) fn list(profiles: &Path) -> Result<String, KnockError> {
    let names = listed_names(profiles)?;
    let shown: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
    let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("HOST".len());
    let mut text = format!("{:width$}  KNOCK PORT      COUNTER  LAYOUT   ADDRESS\n", "HOST");
    for (name, shown) in names.iter().zip(&shown) {
        let _ = match Knocker::load(profiles, name).and_then(|knocker| row(&knocker)) {
            Ok(row) => writeln!(text, "{shown:width$}  {row}"),
            Err(error) => writeln!(text, "{shown:width$}  {error}"),
        };
    }
    Ok(text)
}

fn row(knocker: &Knocker) -> Result<String, KnockError> {
    let config = &knocker.profile.config;
    let knock_port = config.knock_port.map_or_else(|| "asked".to_owned(), |port| port.to_string());
    Ok(format!(
        "{knock_port:>10}  {:>11}  {}  {}",
        knocker.next_counter()?,
        config.layout.name(),
        knocker.address().escape_debug(),
    ))
}
