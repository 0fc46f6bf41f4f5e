//! INI as Python's `ConfigParser` reads it, of Python 2 (the original's) and 3, and what configs of ours had before: quoted
//! strings, lists in brackets, `#` after a value. A key that nobody asks for is an error, and so is a section that is not
//! `[main]`: a mistyped `allow` must not open everything.
//!
//! The crate knows sections, keys, both delimiters and continued lines. [`preprocess`] removes first what it does not know.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;

use configparser::ini::{Ini as Reader, IniDefault};

use super::preprocess::{line_numbers, preprocess};
use crate::grant::{NotAService, Service};

/// Its values are those of `[main]` where that has none of its own.
const DEFAULTS: &str = "default";
const MAIN: &str = "main";

/// What `[main]` says. Whoever reads it asks for each key that there is, and then calls [`Ini::finish`].
#[derive(Debug)]
pub(crate) struct Ini {
    settings: BTreeMap<String, Setting>,
    /// The keys that were asked for.
    known: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Setting {
    /// None: there is neither `=` nor `:`.
    value: Option<String>,
    line: usize,
}

impl Ini {
    /// Parses any bytes. An error is one line that begins with the number of the wrong line, and may have a hint in a second
    /// one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        // Comments may be in any encoding; what is not UTF-8 elsewhere is refused below.
        let text = String::from_utf8_lossy(bytes);
        let text = preprocess(text.strip_prefix('\u{feff}').unwrap_or(&text))?;
        let lines = line_numbers(&text);
        let line = |section: &str, key: &str| {
            lines.get(&(section.to_owned(), key.to_owned())).copied().unwrap_or(1)
        };
        let mut sections = reader().read(text).map_err(|why| {
            let digits = why.chars().skip_while(|c| !c.is_ascii_digit());
            let number: String = digits.take_while(char::is_ascii_digit).collect();
            format!("line {number}: neither [section] nor key = value")
        })?;
        let unknown = sections.keys().filter(|name| ![MAIN, DEFAULTS].contains(&name.as_str()));
        if let Some((number, name)) = unknown.map(|name| (line(name, ""), name)).min() {
            return Err(unknown_section(number, name));
        }
        let main = sections.remove(MAIN);
        let mut settings = BTreeMap::new();
        for (section, keys) in [(DEFAULTS, sections.remove(DEFAULTS)), (MAIN, main.clone())] {
            for (key, value) in keys.into_iter().flatten() {
                let line = line(section, &key);
                if key
                    .chars()
                    .chain(value.iter().flat_map(|value| value.chars()))
                    .any(|c| c == char::REPLACEMENT_CHARACTER)
                {
                    return Err(format!("line {line}: not text (UTF-8)"));
                }
                settings.insert(key, Setting { value, line });
            }
        }
        if main.is_none() && !settings.is_empty() {
            return Err("there is no [main]\nfix: write it above the keys".into());
        }
        Ok(Self { settings, known: Vec::new() })
    }

    /// Whether this says what `other` says and, in addition, `key = value`.
    pub(crate) fn is_same_and(&self, other: &Self, key: &str, value: &str) -> bool {
        let words = |ini: &Self| -> BTreeMap<String, Option<String>> {
            ini.settings.iter().map(|(key, one)| (key.clone(), one.value.clone())).collect()
        };
        let mut expected = words(other);
        let is_new = expected.insert(key.to_owned(), Some(value.to_owned())).is_none();
        is_new && words(self) == expected
    }

    /// A whole number, as Python's `int` reads it.
    pub(crate) fn number<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, String>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let Some((value, line)) = self.take(key)? else { return Ok(None) };
        let digits = value.strip_prefix(['+', '-']).unwrap_or(&value);
        let is_number = digits
            .split('_')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_number {
            return Err(format!(
                "line {line}: {key} is {value:?}, which is no whole number; it may be {} to {}",
                range.start(),
                range.end()
            ));
        }
        let number = digits.replace('_', "").parse().ok().filter(|_| !value.starts_with('-'));
        match number.and_then(|number: u64| T::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(format!(
                "line {line}: {key} is {value}; it may be {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    /// Yes or no, in each of Python's ways.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        let Some((value, line)) = self.take(key)? else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            _ => Err(format!("line {line}: {key} is {value:?}; it may be true or false")),
        }
    }

    /// One line of text, in quotes or not. It may be empty.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, String> {
        let Some((value, line)) = self.take(key)? else { return Ok(None) };
        let text = unquoted(&value).ok_or_else(|| {
            format!(
                "line {line}: {key} is {value:?}: its quotes do not match\n\
                 fix: in double quotes, write \\\" for a quote and \\\\ for a backslash"
            )
        })?;
        if text.contains(char::is_control) {
            return Err(format!(
                "line {line}: {key} is {text:?}; it must be one line of printable characters"
            ));
        }
        Ok(Some(text))
    }

    /// The same, but not empty.
    pub(crate) fn name(&mut self, key: &'static str) -> Result<Option<String>, String> {
        let text = self.text(key)?;
        if text.as_ref().is_some_and(String::is_empty) {
            return Err(self.wrong(key, "it is empty\nfix: give it a value, or remove the line"));
        }
        Ok(text)
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text);
        let there_are: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, meant)| Some(*meant)).ok_or_else(|| {
            self.wrong(
                key,
                &format!("{text:?} is not known\nfix: use one of {}", there_are.join(", ")),
            )
        })
    }

    /// A list by commas or lines, in brackets or not, each in quotes or not.
    pub(crate) fn list(&mut self, key: &'static str) -> Result<Option<Vec<String>>, String> {
        let Some((value, _)) = self.take(key)? else { return Ok(None) };
        let inner = match value.strip_prefix('[') {
            None => Some(value.as_str()),
            Some(rest) => rest.strip_suffix(']'),
        };
        let inner = inner.ok_or_else(|| self.wrong(key, "the list has no ] at its end"))?;
        let parts = inner
            .split([',', '\n', '\t'])
            .map(|part| part.trim().trim_matches(['"', '\'']).trim().to_owned());
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        let unclear =
            |part: &&String| part.contains(|c: char| c.is_control() || "\"'\\".contains(c));
        match parts.iter().find(unclear) {
            Some(part) => Err(self.wrong(key, &format!("{part:?} has quotes that do not match"))),
            None => Ok(Some(parts)),
        }
    }

    /// A list of services, like `tcp/22, udp/60000-61000`.
    pub(crate) fn services(&mut self, key: &'static str) -> Result<Option<Vec<Service>>, String> {
        let Some(texts) = self.list(key)? else { return Ok(None) };
        let services = texts.iter().map(|text| text.parse()).collect::<Result<_, NotAService>>();
        services.map(Some).map_err(|why| self.wrong(key, &why.to_string()))
    }

    /// Something is wrong with what `key` says.
    pub(crate) fn wrong(&self, key: &str, why: &str) -> String {
        match self.settings.get(key) {
            Some(Setting { line, .. }) => format!("line {line}: {key}: {why}"),
            None => format!("{key}: {why}"),
        }
    }

    /// Every key must have been asked for.
    pub(crate) fn finish(self) -> Result<(), String> {
        let Self { settings, known } = self;
        let unknown = settings.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        let Some((key, Setting { line, .. })) = unknown.min_by_key(|(_, setting)| setting.line)
        else {
            return Ok(());
        };
        let mut said = format!("line {line}: there is no key {key:?}");
        let result = match nearest(key, &known) {
            Some(meant) => write!(said, "\nfix: did you mean `{meant}`?"),
            None => write!(said, "\nfix: use one of {}", known.join(", ")),
        };
        result.map_err(|error| error.to_string())?;
        Err(said)
    }

    fn take(&mut self, key: &'static str) -> Result<Option<(String, usize)>, String> {
        self.known.push(key);
        match self.settings.get(key) {
            None => Ok(None),
            Some(Setting { value: Some(value), line }) => {
                Ok(Some((value.trim().to_owned(), *line)))
            }
            Some(Setting { value: None, .. }) => {
                Err(self.wrong(key, &format!("there is no value\nfix: write {key} = VALUE")))
            }
        }
    }
}

/// The crate, set to Python's ways.
fn reader() -> Reader {
    let mut how = IniDefault::default();
    // The name of what stands above every section. No section has this one.
    how.default_section = String::new();
    how.delimiters = vec!['=', ':'];
    how.comment_symbols = vec!['#', ';'];
    // It would cut at each `#` and `;`, in quotes and in words too.
    how.enable_inline_comments = false;
    how.multiline = true;
    Reader::new_from_defaults(how)
}

/// A text without its quotes. None: they do not match.
fn unquoted(value: &str) -> Option<String> {
    let Some(quote @ ('"' | '\'')) = value.chars().next() else { return Some(value.to_owned()) };
    let inner = value.get(1..)?.strip_suffix(quote)?;
    if quote == '\'' {
        return (!inner.contains(quote)).then(|| inner.to_owned());
    }
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return None,
            '\\' => text.push(rest.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => text.push(c),
        }
    }
    Some(text)
}

fn unknown_section(line: usize, name: &str) -> String {
    if name.is_empty() {
        return format!("line {line}: no section is above it\nfix: write [main] there");
    }
    match nearest(name, &[MAIN, DEFAULTS]) {
        Some(DEFAULTS) => format!(
            "line {line}: there is no section [{}]\nfix: did you mean [DEFAULT]?",
            name.escape_debug()
        ),
        Some(meant) => format!(
            "line {line}: there is no section [{}]\nfix: did you mean [{meant}]?",
            name.escape_debug()
        ),
        None => format!(
            "line {line}: there is no section [{}]\nfix: use [main] or [DEFAULT]",
            name.escape_debug()
        ),
    }
}

/// What was meant, as clap guesses it for options.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|known| (strsim::jaro(word, known), *known));
    near.filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
