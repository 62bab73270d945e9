//! The straight line, end to end, in its own words.

use std::sync::{Arc, Mutex};

use durable_core::{
    model::Json,
    orchestrator::{Event, Observer},
};
use durable_testing::{Rig, databases};
use serde_json::json;

#[derive(Default)]
struct Words(Mutex<Vec<&'static str>>);

impl Observer for Words {
    fn observe(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(match event {
            Event::Started(_) => "start",
            Event::Claimed(..) => "claim",
            Event::Advanced(_) => "advance",
            Event::Paused { .. } => "pause",
            Event::Dispatched(_) => "dispatch",
            Event::Began(_) | Event::Ran(_) => "function",
            Event::Settled { .. } => "settle",
            Event::Retrying { .. } => "retry",
            Event::Again { .. } => "again",
            Event::Mended(_) => "mend",
            Event::Finished { .. } => "finish",
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_goes_down_the_straight_line() {
    for (kind, url, _folder) in databases() {
        let words = Arc::new(Words::default());
        let rig = Rig::observed(&url, "w", words.clone());
        let source = "async def main():\n    a = await f(1)\n    return await f(a + 1)\n";
        let id = rig.start(source).await;
        let execution = rig.run(&id, |_, args| Ok(json!(args[0].as_i64().unwrap() * 10))).await;
        assert_eq!(execution.output, Some(Json("110".into())), "{kind}");
        assert_eq!(
            words.0.lock().unwrap().join(" → "),
            "start → claim → advance → pause → dispatch → settle → claim → advance → pause → dispatch → \
             settle → claim → advance → finish",
            "{kind}"
        );
    }
}
