//! How a process is asked to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Ctrl-C, a closed terminal, or the system's wish that the process end.
pub async fn asked_to_stop() {
    let kinds = [SignalKind::interrupt(), SignalKind::hangup(), SignalKind::terminate()];
    let (Ok(mut interrupt), Ok(mut hangup), Ok(mut terminate)) = <(_, _, _)>::from(kinds.map(signal)) else {
        tracing::warn!("signals cannot be caught: nothing stops this process cleanly");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The first signal cancels `stop`; the second ends the process at once.
pub fn stop_on_signals(stop: CancellationToken) {
    tokio::spawn(async move {
        asked_to_stop().await;
        tracing::info!("stopping; a second signal ends this process at once");
        stop.cancel();
        asked_to_stop().await;
        tracing::warn!("ended by a second signal; what ran is found by its lease");
        std::process::exit(i32::from(super::INTERRUPTED));
    });
}
