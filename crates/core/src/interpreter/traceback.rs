//! Where an exception was raised, and what it followed from: as Python would tell it.
//!
//! The interpreter forgets the place of an exception that any `except`, `finally` or `with` has seen. A turn is a pure
//! function, so one that failed is taken again to look: without handlers, the first exception ends it with its whole
//! traceback. Then with the handlers of that place alone, and so on, until it ends as it did.

use std::time::{Duration, Instant};

use monty_types::{CodeLoc, ExcType, MontyException, StackFrame};
use serde::{Deserialize, Serialize};

use super::{
    Control,
    handlers::Kept,
    program::Program,
    tries::{Tries, Why},
    turn::{Origin, Run, Stop, Turn},
};

/// Turns that ran for longer are not taken again.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a turn is taken again at most.
const ROUNDS: usize = 100;

/// How many exceptions that a state is still handling are remembered.
const REMEMBERED: usize = 16;

/// Longest message that is remembered.
const MAX_MESSAGE: usize = 4096;

/// An exception, where it was raised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    kind: ExcType,
    message: Option<String>,
    /// In the workflow's file, the outermost first.
    frames: Vec<Frame>,
    /// It was raised in the workflow's file, not in the prelude.
    own: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Frame {
    pub(super) name: Option<String>,
    /// Line and column, from 1.
    pub(super) start: (u32, u32),
    end: (u32, u32),
    hide_caret: bool,
}

impl Seen {
    fn new(program: &Program, error: &MontyException) -> Self {
        let frames: Vec<Frame> = error.traceback().iter().filter_map(|frame| Frame::new(program, frame)).collect();
        let own = error.traceback().last().is_some_and(|frame| program.frame(frame).is_some());
        Self { kind: error.exc_type(), message: error.message().map(str::to_owned), frames, own }
    }

    fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.message == other.message
    }
}

impl Frame {
    fn new(program: &Program, frame: &StackFrame) -> Option<Self> {
        let frame = program.frame(frame).filter(|frame| frame.filename == program.file)?;
        let (start, end) = ((frame.start.line, frame.start.column), (frame.end.line, frame.end.column));
        Some(Self { name: frame.frame_name, start, end, hide_caret: frame.hide_caret })
    }

    fn shown(&self, program: &Program) -> StackFrame {
        let at = |(line, column)| CodeLoc { line, column };
        let line = program.source.lines().nth(self.start.0 as usize - 1).unwrap_or_default();
        StackFrame {
            filename: program.file.clone(),
            start: at(self.start),
            end: at(self.end),
            frame_name: self.name.clone(),
            preview_line: Some(line.into()),
            hide_caret: self.hide_caret,
            hide_frame_name: false,
        }
    }
}

/// The exceptions of a turn in the order in which they were raised, those that were caught among them.
fn raised(turn: &Turn<'_>, control: &Control, origin: Origin<'_>) -> Vec<Seen> {
    // What is done here is not the workflow's.
    control.allow(PATIENCE);
    let (program, began) = (turn.program, Instant::now());
    let (mut kept, mut seen) = (Kept::default(), Vec::new());
    for _ in 0..ROUNDS {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let mut limits = turn.limits;
        limits.turn = limits.turn.min(left);
        let again = Turn { limits, ..*turn };
        let Err(Stop::Raised(error)) = Run::without_handlers(&again, control, kept.clone()).run(origin) else { break };
        let found = Seen::new(program, &error);
        if left.is_zero() || error.traceback().is_empty() {
            break;
        }
        if seen.last() != Some(&found) {
            seen.push(found);
        }
        // The innermost handler is what catches it: one frame further out only if there was none.
        if !error.traceback().iter().rev().any(|frame| kept.keep(&program.file, frame)) {
            break;
        }
    }
    seen
}

/// What a state that is handling exceptions has to remember of them.
pub(super) fn to_remember(run: &Run<'_>, origin: Origin<'_>) -> Vec<Seen> {
    let mut all = run.raised.clone();
    for mut seen in raised(run.turn, run.control, origin).into_iter().filter(|seen| seen.own) {
        seen.message = seen.message.filter(|message| message.len() <= MAX_MESSAGE);
        all.push(seen);
    }
    all.drain(..all.len().saturating_sub(REMEMBERED));
    all
}

/// The traceback of an exception that ended a turn, which took so long.
pub(super) fn text(run: &Run<'_>, origin: Origin<'_>, took: Duration, error: &MontyException) -> String {
    let (program, before) = (run.turn.program, &run.raised);
    let end = Seen::new(program, error);
    let caught = program.has_handlers && took < PATIENCE && error.exc_type().is_subclass_of(ExcType::BaseException);
    let mut seen = before.clone();
    if caught {
        seen.extend(raised(run.turn, run.control, origin));
    }
    let tries = Tries::of(program);
    let (place, first) = match place_of(&seen, &end) {
        Some(place) => (place, seen[place].clone()),
        None => (0, like_one_before(&seen, end)),
    };
    let mut shown = Vec::new();
    let (mut at, mut next) = (place, Some(with_earlier(&tries, &seen[..place], first)));
    while let Some(one) = next.take().filter(|_| shown.len() < 2 * REMEMBERED) {
        let why = context_of(&tries, &seen[..at], &one);
        shown.push(one.text(program));
        if let Some((why, place, from)) = why {
            let sentence = match why {
                Why::Cause => "The above exception was the direct cause of the following exception:",
                Why::Context => "During handling of the above exception, another exception occurred:",
            };
            shown.push(format!("\n{sentence}\n"));
            let mut before = seen[place].clone();
            before.frames.drain(..from);
            next = Some(with_earlier(&tries, &seen[..place], before));
            at = place;
        }
    }
    shown.reverse();
    shown.join("\n")
}

impl Seen {
    fn text(&self, program: &Program) -> String {
        let frames = self.frames.iter().map(|frame| frame.shown(program)).collect();
        let shown = MontyException::with_traceback(self.kind, self.message.clone(), frames);
        shown.to_string().trim_end().to_owned()
    }
}

/// The last time that this exception was raised at a place of the file.
fn place_of(seen: &[Seen], end: &Seen) -> Option<usize> {
    let same = |seen: &Seen| seen.is(end) && seen.own && raised_there(seen);
    seen.iter().rposition(same)
}

/// What was raised where another had been caught before is seen only on its way out: it has the place of that one.
fn like_one_before(seen: &[Seen], end: Seen) -> Seen {
    let passing = seen.iter().filter(|seen| seen.is(&end)).max_by_key(|seen| seen.frames.len()).cloned();
    let mut end = passing.unwrap_or(end);
    let Some(last) = end.frames.last_mut() else { return end };
    let place = |seen: &Seen| seen.frames.last().filter(|frame| frame.name == last.name).cloned();
    let like = |seen: &&Seen| seen.kind == end.kind && seen.own && raised_there(seen);
    if let Some(place) = seen.iter().rev().filter(like).find_map(place) {
        *last = place;
    }
    end
}

/// Whether an exception was raised where it says. What a handler lets pass has an empty place.
fn raised_there(seen: &Seen) -> bool {
    seen.frames.last().is_some_and(|last| last.start != last.end)
}

/// `raise error`, where `error` was raised before: both places, as Python shows them.
fn with_earlier(tries: &Tries<'_>, before: &[Seen], mut one: Seen) -> Seen {
    let Some(last) = one.frames.last().filter(|last| tries.raises_variable(last)) else { return one };
    let elsewhere = |seen: &&Seen| seen.own && raised_there(seen) && seen.frames.last() != Some(last);
    let earlier = before.iter().rev().find(|seen| seen.is(&one) && elsewhere(seen));
    if let Some(earlier) = earlier {
        let from = earlier.frames.iter().position(|frame| frame.name == last.name);
        let from = from.unwrap_or(earlier.frames.len().saturating_sub(1));
        one.frames.extend_from_slice(&earlier.frames[from..]);
    }
    one
}

/// The exception that was being handled when this one was raised, with how the two belong together, and the frame in which
/// it was caught.
fn context_of(tries: &Tries<'_>, before: &[Seen], one: &Seen) -> Option<(Why, usize, usize)> {
    let cause = one.frames.last().map(|last| tries.cause(last)).unwrap_or_default();
    for (depth, frame) in one.frames.iter().enumerate().rev() {
        let innermost = depth + 1 == one.frames.len();
        let Some(handler) = tries.handler_around(frame) else { continue };
        let caught_in = |seen: &Seen| seen.frames.iter().position(|frame| tries.is_in_body(&handler, frame));
        // It came the same way, if the frames around are known of both.
        let same_way = |seen: &Seen, from: usize| from == 0 || depth == 0 || seen.frames[..from] == one.frames[..depth];
        let inside = |seen: &Seen| caught_in(seen).is_some_and(|from| same_way(seen, from));
        let place = before.iter().rposition(|seen| raised_there(seen) && inside(seen))?;
        let from = caught_in(&before[place])?;
        // It passed this handler on its own way.
        if before[place].is(one) && before[place].frames.last() == one.frames.last() {
            continue;
        }
        return match (&cause, innermost) {
            (Some(None), _) => None,
            (Some(Some(name)), true) if handler.name.as_ref() == Some(name) => Some((Why::Cause, place, from)),
            (Some(Some(_)), _) => None,
            (None, _) => Some((Why::Context, place, from)),
        };
    }
    None
}
