//! What a config says, written down again. A writer of our own, so that the reader is not checked with itself.

/// A `config`: one line for each key that says something.
pub(crate) fn file(lines: &[(&str, Option<String>)]) -> String {
    let said =
        lines.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_ref()?)));
    format!("[main]\n{}", said.collect::<String>())
}

/// A string, in which only letters and digits stand for themselves.
pub(crate) fn string(text: &str) -> String {
    let written = |c: char| {
        if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\U{:08X}", u32::from(c)) }
    };
    format!("\"{}\"", text.chars().map(written).collect::<String>())
}

/// A list of strings.
pub(crate) fn list(texts: impl Iterator<Item = String>) -> String {
    format!("[{}]", texts.map(|text| string(&text)).collect::<Vec<_>>().join(", "))
}
