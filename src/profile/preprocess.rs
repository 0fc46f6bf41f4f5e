//! What the crate that parses INI does not know of `ConfigParser`'s files and of our earlier ones: comments after values
//! and Python 2's `rem`, outside quotes only; lists in brackets over several lines; and the line of each key.

use std::collections::HashMap;

/// The text without comments, with every list in brackets on one line, and as many lines as before.
pub(super) fn preprocess(text: &str) -> Result<String, String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open_list: Option<usize> = None;
    for (at, line) in text.lines().enumerate() {
        // Python 3 would begin a line there, Python 2 would not: what is behind a comment's must not be lost.
        if line.trim_end_matches('\r').contains('\r') {
            return Err(format!("line {}: a carriage return within the line", at + 1));
        }
        let line = without_comment(line).trim_end();
        if let Some(list) = open_list.and_then(|list| lines.get_mut(list)) {
            list.push('\t');
            list.push_str(line.trim_start());
            if line.ends_with(']') {
                open_list = None;
            }
            lines.push(String::new());
            continue;
        }
        if let Some((header, rest)) = line.trim_start().split_once(']')
            && header.starts_with('[')
            && !rest.is_empty()
        {
            return Err(format!(
                "line {}: {rest:?} stands behind a section\nfix: write it on a line of its own",
                at + 1
            ));
        }
        if opens_list(line) {
            open_list = Some(at);
        }
        lines.push(line.to_owned());
    }
    Ok(lines.join("\n"))
}

/// A comment is a line that begins with `#`, `;` or (Python 2) the word `rem`, and what follows ` ;` or ` #` outside quotes.
fn without_comment(line: &str) -> &str {
    let first_word = line.split(char::is_whitespace).next().unwrap_or_default();
    if first_word.eq_ignore_ascii_case("rem") {
        return "";
    }
    let mut quote = None;
    let mut before = ' ';
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if matches!(c, '#' | ';')
                && (before.is_whitespace() || matches!(before, '"' | '\'')) =>
            {
                return line.get(..at).unwrap_or_default();
            }
            None if matches!(c, '"' | '\'')
                && (before.is_whitespace() || matches!(before, '=' | ':' | '[' | ',')) =>
            {
                quote = Some(c);
            }
            _ => {}
        }
        before = c;
    }
    line
}

/// Whether this begins a list of quoted strings that ends on another line, which Python does not know.
fn opens_list(line: &str) -> bool {
    line.split_once(['=', ':']).is_some_and(|(_, value)| {
        value.trim_start().strip_prefix('[').is_some_and(|rest| {
            let rest = rest.trim_start();
            rest.is_empty() || (rest.starts_with(['"', '\'']) && !rest.ends_with(']'))
        })
    })
}

/// Where each section and key stands, the last of each.
pub(super) fn line_numbers(text: &str) -> HashMap<(String, String), usize> {
    let mut numbers = HashMap::new();
    let mut section = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let header = line.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        let key = if let Some((name, _)) = header {
            section = name.trim().to_lowercase();
            String::new()
        } else {
            line.split(['=', ':']).next().unwrap_or_default().trim().to_lowercase()
        };
        numbers.insert((section.clone(), key), number);
    }
    numbers
}
