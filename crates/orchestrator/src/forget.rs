//! The loop that forgets what nobody needs any more. Apart from the clock, which does not wait for it.

use std::{sync::Arc, time::Duration};

use durable_core::orchestrator::{
    Engine,
    forget::{Rounds, tick},
};
use tokio_util::sync::CancellationToken;

/// The wait after a step that found little.
const STEP: Duration = Duration::from_secs(60);

/// The wait after one that found much.
const NEXT: Duration = Duration::from_millis(50);

/// That.
const MUCH: usize = 20;

/// Forgets until `stop`.
pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let (mut rounds, mut wait) = (Rounds::default(), STEP);
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = match tick(&engine, &mut rounds, engine.now()).await {
            Ok(gone) if gone >= MUCH => NEXT,
            Ok(_) => STEP,
            Err(error) => {
                tracing::warn!(%error, "what nobody needs any more could not be forgotten");
                STEP
            }
        };
    }
}
