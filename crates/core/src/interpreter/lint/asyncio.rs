//! What to write instead of what the interpreter's asyncio lacks.

const INSTEAD: [(&str, &str); 32] = [
    ("create_task", "handle = durable.spawn(coroutine), then await handle"),
    ("ensure_future", "handle = durable.spawn(coroutine), then await handle"),
    ("Task", "handle = durable.spawn(coroutine), then await handle"),
    ("current_task", "handle = durable.spawn(coroutine), then await handle"),
    ("all_tasks", "keep the handles of durable.spawn in a list"),
    ("wait_for", "await durable.timeout(awaitable, seconds)"),
    ("timeout", "await durable.timeout(awaitable, seconds)"),
    ("timeout_at", "await durable.timeout(awaitable, seconds)"),
    ("wait", "await durable.race(…) for the first, await durable.settle(…) for all"),
    ("FIRST_COMPLETED", "await durable.race(…) for the first, await durable.settle(…) for all"),
    ("ALL_COMPLETED", "await durable.race(…) for the first, await durable.settle(…) for all"),
    ("as_completed", "await durable.race(…) in a loop"),
    ("TaskGroup", "await asyncio.gather(…)"),
    ("Runner", "async def main(): it is run by itself"),
    ("Semaphore", "await durable.map(fn, items, limit=n)"),
    ("BoundedSemaphore", "await durable.map(fn, items, limit=n)"),
    ("Lock", "tasks of a workflow switch at awaits only: a plain variable will do"),
    ("Condition", "tasks of a workflow switch at awaits only: a plain variable will do"),
    ("Barrier", "await asyncio.gather(…), and go on after it"),
    ("Event", "a list or a plain variable, and durable.wait_signal for what comes from outside"),
    ("Future", "token, answer = durable.callback(), or durable.wait_signal for what comes from outside"),
    ("Queue", "a list, and durable.map(fn, items, limit=n)"),
    ("PriorityQueue", "a list that is sorted, and durable.map(fn, items, limit=n)"),
    ("LifoQueue", "a list, and durable.map(fn, items, limit=n)"),
    ("shield", "await it in a finally block, or let it run beside: durable.spawn(coroutine)"),
    ("to_thread", "call a function of a worker and await it"),
    ("run_in_executor", "call a function of a worker and await it"),
    ("get_event_loop", "a workflow has no event loop to hold: await, or durable.spawn(coroutine)"),
    ("get_running_loop", "a workflow has no event loop to hold: await, or durable.spawn(coroutine)"),
    ("new_event_loop", "a workflow has no event loop to hold: await, or durable.spawn(coroutine)"),
    ("CancelledError", "durable.Cancelled"),
    ("TimeoutError", "durable.TaskTimeout"),
];

pub(super) fn instead(name: &str) -> Option<&'static str> {
    INSTEAD.iter().find(|(lacking, _)| *lacking == name).map(|(_, instead)| *instead)
}
