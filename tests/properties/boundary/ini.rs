//! What a config says, written down again. A writer of our own, so that the reader is not checked with itself.

/// A `config`: one line for each key that says something.
pub(crate) fn file(lines: &[(&str, Option<String>)]) -> String {
    let said =
        lines.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_ref()?)));
    format!("[main]\n{}", said.collect::<String>())
}

/// A text in quotes, so that no character of it means anything but itself.
pub(crate) fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A key that nobody knows is refused wherever it stands, however the rest reads.
pub(crate) fn with_unknown_key(text: &str) -> String {
    format!("{text}alow = tcp/22\n")
}

/// A list by commas, which stand in none of its parts.
pub(crate) fn list(texts: impl Iterator<Item = String>) -> String {
    texts.map(|text| string(&text)).collect::<Vec<_>>().join(", ")
}
