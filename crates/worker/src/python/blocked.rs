//! An event loop that does not go on: which call holds it up, and since when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    marks::Mark,
    process::{Blocked, Shared, lock},
};

/// How often it is looked whose turn it is.
const LOOK: Duration = Duration::from_millis(100);

/// A turn that takes longer than this is named.
pub(super) const LONG: Duration = Duration::from_secs(1);

/// Watches the turns of a process until it ends. While a turn is long, the others' clocks stand still.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut seen: Option<(Mark, Instant)> = None;
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = shared.dead() => return,
        }
        let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
        let turn = shared.marks.turn().filter(|mark| mark.call != 0);
        seen = match (turn, seen) {
            (Some(mark), Some((before, since))) if mark == before => {
                hold_up_others(&shared, mark, passed);
                if since.elapsed() >= LONG {
                    name(&shared, mark, since);
                }
                Some((mark, since))
            }
            (Some(mark), _) => {
                clear(&shared);
                Some((mark, Instant::now()))
            }
            (None, _) => {
                clear(&shared);
                None
            }
        };
    }
}

fn hold_up_others(shared: &Shared, mark: Mark, time: Duration) {
    for (id, inside) in lock(&shared.inside).iter() {
        if *id != mark.call && inside.clock.has_started() {
            inside.clock.hold_up(time);
        }
    }
}

/// Says, once per turn, who holds up whom.
fn name(shared: &Shared, mark: Mark, since: Instant) {
    let blocked = Blocked { by: mark.call, since };
    if lock(&shared.blocked).replace(blocked.clone()) == Some(blocked) {
        return;
    }
    let inside = lock(&shared.inside);
    let (function, name) = inside
        .get(&mark.call)
        .map_or(("a task of a call that has ended", ""), |inside| (&*inside.function, &*inside.name));
    tracing::warn!(
        function,
        call = name,
        others = inside.len().saturating_sub(1),
        "an asynchronous function holds up the event loop: what runs beside it cannot go on; let it await, use \
         asyncio.to_thread, or make it a plain def"
    );
    for (id, inside) in inside.iter() {
        if *id == mark.call {
            inside.progress.remark(Some("holds up the event loop, and the functions beside it"));
        } else {
            inside.progress.remark(Some(&format!("waits: {function} ({name}) holds up the event loop")));
        }
    }
}

fn clear(shared: &Shared) {
    if lock(&shared.blocked).take().is_some() {
        lock(&shared.inside).values().for_each(|inside| inside.progress.remark(None));
    }
}
