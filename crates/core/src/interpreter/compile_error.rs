//! A workflow that cannot run, with the place in its file.

use std::fmt;

use monty_types::MontyException;
use ruff_text_size::TextRange;

use super::{advice, prelude};

/// A workflow that cannot run, with the place in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// The file name.
    pub file: String,
    /// From 1.
    pub line: Option<u32>,
    /// From 1, in characters.
    pub column: Option<u32>,
    /// `SyntaxError` or `NotImplementedError`.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// The line, and a caret under the place.
    pub excerpt: Option<String>,
    /// What to write instead.
    pub advice: Option<String>,
    /// It may do what is meant: it is said, and refuses nothing.
    pub warning: bool,
}

impl std::error::Error for CompileError {}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        for position in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{position}")?;
        }
        let kind = if self.warning { "warning" } else { self.kind.as_str() };
        write!(f, ": {kind}: {}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "\nhint: {advice}")?;
        }
        Ok(())
    }
}

impl CompileError {
    /// The interpreter's own refusal; `before` lines stand before the user's.
    pub(super) fn new(file: &str, source: &str, error: &MontyException, before: u32) -> Self {
        let frame = error.traceback().last();
        let message = error.message().unwrap_or_default();
        let message = message.replace("The monty syntax parser does not yet support", advice::CANNOT_HAVE);
        let mut found = Self::bare(file, &error.exc_type().to_string(), &message);
        if let Some(frame) = frame.filter(|frame| frame.start.line > before) {
            found.place(
                source,
                frame.start.line - before,
                frame.start.column,
                frame.end.column.max(frame.start.column + 1),
            );
        }
        found
    }

    pub(super) fn at(file: &str, source: &str, kind: &str, message: &str, range: TextRange) -> Self {
        let starts = line_starts(source);
        let offset = range.start().to_u32();
        let line = line_at(&starts, offset);
        let start = starts.get(line as usize - 1).copied().unwrap_or(0);
        let before = source.get(start as usize..offset as usize).unwrap_or_default();
        let column = u32::try_from(before.chars().count()).unwrap_or(0) + 1;
        let mut found = Self::bare(file, kind, message);
        let text = source.get(range.start().to_usize()..range.end().to_usize()).unwrap_or_default();
        let width = text.lines().next().map_or(1, |line| line.chars().count().max(1));
        found.place(source, line, column, column + u32::try_from(width).unwrap_or(1));
        found
    }

    pub(super) fn at_offset(file: &str, source: &str, message: &str, offset: u32) -> Self {
        let range = TextRange::empty(offset.into());
        Self::at(file, source, "ImportError", message, range)
    }

    pub(super) fn unknown(file: &str, source: &str, dotted: &str, offset: u32) -> Self {
        let (module, name) = dotted.split_once('.').unwrap_or((dotted, ""));
        let durable = prelude::durable();
        let near = durable
            .iter()
            .map(|known| (strsim::jaro_winkler(known, name), *known))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match (module, name, near) {
            ("durable", "sleep", _) => "await asyncio.sleep(seconds), which is durable".into(),
            ("durable", _, Some((_, near))) => format!("did you mean {near}?"),
            ("durable", _, None) => format!("it has {}", durable.into_iter().collect::<Vec<_>>().join(", ")),
            _ => "it has uuid4 and UUID".into(),
        };
        Self::at_offset(file, source, &format!("{module} has no {name:?} in a workflow: {hint}"), offset)
    }

    pub(super) fn bare(file: &str, kind: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            kind: kind.to_owned(),
            message: message.to_owned(),
            excerpt: None,
            advice: advice::for_syntax(message).map(str::to_owned),
            warning: false,
        }
    }

    fn place(&mut self, source: &str, line: u32, column: u32, end: u32) {
        self.line = Some(line);
        self.column = Some(column);
        let text = source.lines().nth(line as usize - 1);
        // A file that ends too early is shown where it ends.
        let (text, column, end) = match text.or(source.lines().last()) {
            Some(last) if text.is_none() => {
                let after = u32::try_from(last.chars().count()).unwrap_or(0) + 1;
                (last, after, after + 1)
            }
            Some(text) => (text, column.max(1), end),
            None => return,
        };
        let room = u32::try_from(text.chars().count()).unwrap_or(u32::MAX).saturating_sub(column) + 1;
        let carets = "^".repeat(end.saturating_sub(column).clamp(1, room.max(1)) as usize);
        self.excerpt = Some(format!("    {text}\n    {}{carets}", " ".repeat(column as usize - 1)));
    }
}

pub(super) fn line_starts(source: &str) -> Vec<u32> {
    let after = source.bytes().zip(1u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
    std::iter::once(0).chain(after).filter(|start| *start == 0 || (*start as usize) < source.len()).collect()
}

pub(super) fn line_at(starts: &[u32], offset: u32) -> u32 {
    u32::try_from(starts.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX).max(1)
}
