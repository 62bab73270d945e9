//! What a run looks like: a live tree of calls on a terminal, plain lines elsewhere. All of it goes
//! to stderr; stdout is for the output.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use durable_core::{
    id::{CallId, ExecutionId},
    model::{Call, CallKind, Failure, LogLine, Outcome},
    orchestrator::{Event, Observer},
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::Notify;

use crate::output::{note, printable};

/// Calls that have a line of their own at a time; the others are counted.
const LINES: usize = 12;

/// Shows a run while it happens.
pub(crate) struct Progress {
    screen: Screen,
    state: Mutex<State>,
    ended: Notify,
}

enum Screen {
    /// Shows nothing (`--json`).
    Silent,
    Plain,
    Live {
        bars: MultiProgress,
        head: ProgressBar,
    },
}

#[derive(Default)]
struct State {
    title: String,
    /// The execution that is shown; those that it started have their calls named with their ids.
    root: Option<ExecutionId>,
    calls: BTreeMap<(String, CallId), Shown>,
    made: usize,
    done: usize,
}

struct Shown {
    label: String,
    timer: bool,
    since: Instant,
    began: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a run that prints `--json`, nothing is shown.
    pub(crate) fn new(json: bool) -> Self {
        let screen = if json {
            Screen::Silent
        } else if std::io::stderr().is_terminal() {
            let bars = MultiProgress::new();
            let head = bars.add(ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {msg}")));
            head.enable_steady_tick(Duration::from_millis(100));
            Screen::Live { bars, head }
        } else {
            Screen::Plain
        };
        Self { screen, state: Mutex::default(), ended: Notify::new() }
    }

    /// Names the run.
    pub(crate) fn title(&self, title: String, root: &ExecutionId) {
        self.state().root = Some(root.clone());
        match &self.screen {
            Screen::Plain => note(title.as_str()),
            Screen::Live { .. } | Screen::Silent => {}
        }
        self.state().title = title;
        self.refresh();
    }

    /// Calls that were made before this process took the execution over.
    pub(crate) fn found(&self, calls: &[Call]) {
        for call in calls {
            let timer = call.kind == CallKind::Timer;
            if call.status.is_settled() {
                let mut state = self.state();
                (state.made, state.done) = (state.made + 1, state.done + 1);
            } else {
                let label = label(&call.function, call.line, call.id);
                self.add((call.execution_id.to_string(), call.id), label, timer);
            }
        }
        self.fill();
    }

    fn add(&self, id: (String, CallId), label: String, timer: bool) {
        let mut state = self.state();
        state.made += 1;
        state.calls.insert(id, Shown { label, timer, since: Instant::now(), began: timer, bar: None });
    }

    /// Says something in between.
    pub(crate) fn say(&self, text: &str) {
        match &self.screen {
            Screen::Silent => {}
            Screen::Plain => note(text),
            Screen::Live { bars, .. } => drop(bars.println(printable(text))),
        }
    }

    /// Waits for the end of the execution.
    pub(crate) async fn until_ended(&self) {
        self.ended.notified().await;
    }

    /// Takes the live lines away.
    pub(crate) fn close(&self) {
        if let Screen::Live { bars, head } = &self.screen {
            for shown in self.state().calls.values_mut() {
                if let Some(bar) = shown.bar.take() {
                    bar.finish_and_clear();
                }
            }
            head.finish_and_clear();
            let _ = bars.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) {
        if let Screen::Live { head, .. } = &self.screen {
            let state = self.state();
            let hidden = state.calls.values().filter(|shown| shown.bar.is_none()).count();
            let more = if hidden > 0 { format!(", {hidden} more waiting") } else { String::new() };
            head.set_message(format!("{} · {} of {} calls done{more}", state.title, state.done, state.made));
        }
    }

    /// A call was made.
    pub(crate) fn call_made(&self, of: &ExecutionId, id: CallId, function: &str, line: Option<u32>, timer: bool) {
        let mut label = label(function, line, id);
        if self.state().root.as_ref().is_some_and(|root| root != of) {
            label.push_str(&format!(" of {of}"));
        }
        if matches!(self.screen, Screen::Plain) && timer {
            note(format_args!("  waiting   {label}"));
        }
        self.add((of.to_string(), id), label, timer);
        self.fill();
    }

    /// Gives lines to calls that have none, those that run before those that wait.
    fn fill(&self) {
        if let Screen::Live { bars, .. } = &self.screen {
            let mut state = self.state();
            let mut lines = state.calls.values().filter(|shown| shown.bar.is_some()).count();
            for began in [true, false] {
                for shown in state.calls.values_mut().filter(|shown| shown.began == began && shown.bar.is_none()) {
                    if lines >= LINES {
                        break;
                    }
                    lines += 1;
                    let bar = bars.add(ProgressBar::new_spinner());
                    bar.set_style(style(if shown.timer {
                        "  ├─ ⏳ {msg} {elapsed}"
                    } else {
                        "  ├─ · {msg:.dim}"
                    }));
                    bar.set_message(shown.label.clone());
                    if shown.began {
                        run_style(&bar, shown.timer);
                    }
                    shown.bar = Some(bar);
                }
            }
        }
        self.refresh();
    }

    /// A worker runs a call's function.
    pub(crate) fn call_began(&self, of: &ExecutionId, id: CallId) {
        if let Some(shown) = self.state().calls.get_mut(&(of.to_string(), id)) {
            (shown.began, shown.since) = (true, Instant::now());
            if let Some(bar) = &shown.bar {
                bar.reset_elapsed();
                run_style(bar, shown.timer);
            }
            if matches!(self.screen, Screen::Plain) {
                note(format_args!("  started   {}", shown.label));
            }
        }
        self.fill();
    }

    /// A call has ended, well or not; `took` where that is known better than by having watched.
    pub(crate) fn call_ended(&self, of: &ExecutionId, id: CallId, failure: Option<&Failure>, took: Option<Duration>) {
        let shown = {
            let mut state = self.state();
            state.done += 1;
            state.calls.remove(&(of.to_string(), id))
        };
        let Some(shown) = shown else { return };
        if let Some(bar) = &shown.bar {
            bar.finish_and_clear();
        }
        let took = seconds(took.unwrap_or_else(|| shown.since.elapsed()));
        let (mark, word, why) = match failure {
            None => ("✓", "completed", String::new()),
            Some(failure) => ("✗", "failed   ", format!(": {}", failure.in_short())),
        };
        match &self.screen {
            Screen::Live { .. } => self.say(&format!("  ├─ {mark} {} {took}{why}", shown.label)),
            _ => self.say(&format!("  {word} {} after {took}{why}", shown.label)),
        }
        self.fill();
    }

    fn log(&self, lines: &[LogLine]) {
        for line in lines.iter().flat_map(|line| line.text.lines().map(move |text| (line, text))) {
            let who = line.0.call_id.map_or_else(|| "workflow".to_owned(), |id| format!("#{id}"));
            self.say(&format!("  │ {who}: {}", line.1));
        }
    }
}

fn label(function: &str, line: Option<u32>, id: CallId) -> String {
    let place = line.map_or_else(String::new, |line| format!(" (line {line})"));
    format!("{function}{place} #{id}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn run_style(bar: &ProgressBar, timer: bool) {
    bar.set_style(style(if timer {
        "  ├─ ⏳ {msg} {elapsed}"
    } else {
        "  ├─ {spinner:.cyan} {msg} {elapsed}"
    }));
    bar.enable_steady_tick(Duration::from_millis(100));
}

/// A time as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        short if short < 1.0 => format!("{:.0}ms", short * 1000.0),
        medium if medium < 60.0 => format!("{medium:.1}s"),
        long => format!("{:.0}m {:.0}s", (long / 60.0).floor(), long % 60.0),
    }
}

impl Observer for Progress {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Paused { execution, new_calls, log, .. } => {
                self.log(log);
                for call in *new_calls {
                    let waits = matches!(call.kind, CallKind::Timer | CallKind::Signal | CallKind::Callback);
                    self.call_made(execution, call.id, &call.function, call.line, waits);
                }
            }
            Event::Began(of) => self.call_began(&of.execution, of.call),
            Event::Settled { of, outcome, log } => {
                self.log(log);
                let failure = if let Outcome::Failed(failure) = outcome { Some(failure) } else { None };
                self.call_ended(&of.execution, of.call, failure, None);
            }
            Event::Retrying { of, failure, wait } => {
                let label = self
                    .state()
                    .calls
                    .get(&(of.execution.to_string(), of.call))
                    .map(|shown| shown.label.clone())
                    .unwrap_or_default();
                self.say(&format!("  retrying  {label} in {}: {}", seconds(*wait), failure.in_short()));
            }
            Event::Again { log, .. } => {
                self.log(log);
                self.say("  begins anew");
            }
            Event::Finished { execution, log, .. } => {
                self.log(log);
                if self.state().root.as_ref().is_none_or(|root| root == *execution) {
                    self.ended.notify_one();
                }
            }
            Event::Started(_)
            | Event::Claimed(..)
            | Event::Advanced(_)
            | Event::Dispatched(_)
            | Event::Ran(_)
            | Event::Mended(_) => {}
        }
    }
}
