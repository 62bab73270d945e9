//! Why a value cannot cross, and where in it.

use std::fmt;

/// Longest part of a key or of a value's text that is shown, in characters.
const SHOWN: usize = 60;

/// A value that cannot cross: what was seen, where in the value, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    text: String,
    /// The way from the value to what was seen, from the inside out.
    steps: Vec<String>,
}

impl Refusal {
    /// A refusal of the value itself.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), steps: Vec::new() }
    }

    /// The same, seen in a part of a value.
    #[must_use]
    pub(super) fn below(mut self, step: String) -> Self {
        self.steps.push(step);
        self
    }

    /// The refusal of the value that is called `root`: `result["rows"][3]: …`.
    pub fn of(&self, root: &str) -> String {
        format!("{root}{}: {}", self.path(), self.text)
    }

    fn path(&self) -> String {
        self.steps.iter().rev().map(String::as_str).collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.steps.is_empty() {
            true => f.write_str(&self.text),
            false => write!(f, "at {}: {}", self.path(), self.text),
        }
    }
}

impl std::error::Error for Refusal {}

/// The step to an item of a list.
pub(super) fn index(place: usize) -> String {
    format!("[{place}]")
}

/// The step to what stands under a text in a dict.
pub(super) fn key(name: &str) -> String {
    format!("[{:?}]", shortened(name))
}

/// The beginning of a text.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
