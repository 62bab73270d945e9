//! The SQL moves every status exactly as `durable_core::state` says.

use diesel::connection::SimpleConnection;
use durable_core::{
    id::{CallId, Epoch, WorkerId},
    interpreter::Snapshot,
    model::{CallStatus, ExecutionStatus, Failure, Json, Outcome},
    quota::Used,
    state::{CallEvent, ExecutionEvent, next_call, next_execution},
    store::{
        calls::{self, AttemptOf},
        control,
        executions::{self, Ending, Fence, Pausing},
    },
    time::Timestamp,
};
use durable_testing::{Rig, databases};

const ONE: &str = "async def main():\n    return await f(1)\n";
const ERROR: &str = r#"'{"type":"E","message":"e"}'"#;

fn call_in(status: CallStatus) -> String {
    let (result, error) = match status {
        CallStatus::Completed => ("'1'", "NULL"),
        CallStatus::Failed => ("NULL", ERROR),
        CallStatus::Pending | CallStatus::Running | CallStatus::Cancelled => ("NULL", "NULL"),
    };
    let (completed, due) = if status.is_settled() { ("1", "NULL") } else { ("NULL", "1") };
    format!(
        "UPDATE calls SET status = '{status}', attempt = 1, result = {result}, error = {error},
         completed_at = {completed}, due_at = {due}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_moved_as_the_table_says() {
    use CallEvent::{Begin, Cancel, Complete, Fail, Retry, Revive};
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        let of = AttemptOf { execution: id.clone(), call: CallId(0), number: 1 };
        for status in CallStatus::ALL {
            for event in [Begin, Complete, Fail, Retry, Cancel] {
                let (of, setup, now) = (of.clone(), call_in(*status), Timestamp(5));
                let moved = rig.engine.db.write(move |conn| {
                    conn.batch_execute(&setup)?;
                    let failed = Outcome::Failed(Failure::new("E", "e"));
                    Ok(match event {
                        Begin => calls::begin(conn, &of, &WorkerId("w".into()), now, now)?,
                        Complete => calls::settle(conn, &of, &Outcome::Completed(Json("1".into())), now)?.is_some(),
                        Fail => calls::settle(conn, &of, &failed, now)?.is_some(),
                        Retry => calls::retry(conn, &of, now)?,
                        Cancel => {
                            calls::cancel_open(conn, &of.execution, calls::Seen::ByNobody, now)?;
                            *status != calls::list(conn, &of.execution)?[0].status
                        }
                        Revive => unreachable!("see revive.rs"),
                    })
                });
                let expected = next_call(*status, event);
                assert_eq!(moved.await.unwrap(), expected.is_some(), "{kind}: {status} {event:?}");
                assert_eq!(rig.status(&id, CallId(0)).await, expected.unwrap_or(*status), "{kind}: {status} {event:?}");
            }
        }
    }
}

fn execution_in(status: ExecutionStatus, due: i64) -> String {
    let claimed = if status == ExecutionStatus::Running { "'x'" } else { "NULL" };
    let output = if status == ExecutionStatus::Completed { "'1'" } else { "NULL" };
    let ended_badly = matches!(status, ExecutionStatus::Failed | ExecutionStatus::Cancelled);
    let error = if ended_badly { ERROR } else { "NULL" };
    let held = status == ExecutionStatus::Paused;
    let finished = if status.is_final() { "1" } else { "NULL" };
    format!(
        "UPDATE executions SET status = '{status}', epoch = 3, claimed_by = {claimed}, output = {output},
         error = {error}, finished_at = {finished}, due_at = {due}, snapshot = '', snapshot_format = 'f', held = {held}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_moved_as_the_table_says() {
    use ExecutionEvent::{Again, Cancel, Claim, Fail, Finish, Hold, Pause, Release, Revive};
    for (kind, url, _folder) in databases() {
        let rig = Rig::new(&url, "w");
        let id = rig.start(ONE).await;
        for status in ExecutionStatus::ALL {
            let claims = [Claim { expired: false }, Claim { expired: true }];
            for event in claims.into_iter().chain([Pause, Finish, Fail, Cancel, Hold, Release, Again]) {
                let due = if event == (Claim { expired: true }) { 1 } else { 9 };
                let (setup, now) = (execution_in(*status, due), Timestamp(5));
                let fence = Fence { id: id.clone(), epoch: Epoch(3) };
                let moved = rig.engine.db.write(move |conn| {
                    conn.batch_execute(&setup)?;
                    let snapshot = Snapshot { format: "f".into(), bytes: vec![1] };
                    let (failure, used) = (Failure::new("E", "e"), Used::default());
                    Ok(match event {
                        Claim { .. } => executions::claim(conn, &fence.id, &WorkerId("w".into()), now, now)?,
                        Pause => {
                            let pausing =
                                Pausing { snapshot: &snapshot, base: None, due_at: None, progress: None, used: &used };
                            executions::pause(conn, &fence, pausing, now)?.is_some()
                        }
                        Finish => executions::end(conn, &fence, &Ending::Completed(Json("1".into())), now)?,
                        Fail => executions::end(conn, &fence, &Ending::Failed(failure), now)?,
                        Cancel => control::end_by_force(conn, &fence.id, &failure, now)?,
                        Hold => control::hold(conn, &fence.id)?,
                        Release => control::release(conn, &fence.id, now)?,
                        Again => control::again(conn, &fence, (&Json("{}".into()), CallId(9)), (&used, now), now)?,
                        Revive => unreachable!("see revive.rs"),
                    })
                });
                let expected = next_execution(*status, event);
                assert_eq!(moved.await.unwrap(), expected.is_some(), "{kind}: {status} {event:?}");
                assert_eq!(rig.execution(&id).await.status, expected.unwrap_or(*status), "{kind}: {status} {event:?}");
            }
        }
    }
}
