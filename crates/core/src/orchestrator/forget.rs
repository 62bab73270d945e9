//! forget: what nobody needs any more goes, a bounded part at a time: executions whose time is over, states that were kept
//! long enough, texts that nobody refers to, signals that ended executions took.

use std::time::Duration;

use super::{Engine, OrchestrationError};
use crate::{
    store::{retention, snapshots, workers},
    time::Timestamp,
};

/// How long a text is kept at least: who starts the same again soon finds it.
const TEXTS: Duration = Duration::from_secs(7 * 86_400);

/// How long an ended execution's signals are kept after it took them.
const SIGNALS: Duration = Duration::from_secs(7 * 86_400);

/// Where the rounds through the tables stand.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    text: String,
    signal: i64,
}

/// Takes a step of every round; answers how many rows went. When that are many, there may be more.
pub async fn tick(engine: &Engine, rounds: &mut Rounds, now: Timestamp) -> Result<usize, OrchestrationError> {
    let ago = |time: Duration| Timestamp(now.0.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)));
    let mut gone = 0;
    if let Some(time) = engine.settings.keep_ended {
        let before = ago(time);
        let (rows, _) = engine.db.write(move |conn| retention::ended(conn, before)).await?;
        gone += rows;
    }
    let before = ago(engine.settings.keep_history);
    gone += engine
        .db
        .write(move |conn| {
            // Only those that died say nothing before they go.
            workers::forget(conn, now)?;
            snapshots::forget(conn, before)
        })
        .await?;
    let (after, before) = (rounds.text.clone(), ago(TEXTS));
    let texts = engine.db.write(move |conn| retention::texts(conn, &after, before)).await?;
    rounds.text = texts.at.unwrap_or_default();
    let (after, before) = (rounds.signal, ago(SIGNALS));
    let signals = engine.db.write(move |conn| retention::taken_signals(conn, after, before)).await?;
    rounds.signal = signals.at.unwrap_or_default();
    Ok(gone + texts.gone + signals.gone)
}
