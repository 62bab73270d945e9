//! Workflows that mean harm, or have a bug that looks like it, and the end that each must have. They run beside the load,
//! which must not notice.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use durable_testing::Cluster;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::invariants::Check;

/// How their ids begin.
pub(crate) const PREFIX: &str = "hostile-";

/// How often one may be handed on: processes are killed under it, too.
const MOST_CLAIMS: i64 = 20;

/// Between two of them.
const EVERY: Duration = Duration::from_millis(700);

/// What has to become of one.
enum End {
    /// It is not even started: 422, with this in the sentence.
    Refused(&'static str),
    /// It fails with this type and this in the sentence.
    Fails(&'static str, &'static str),
    /// It completes with this JSON.
    Completes(&'static str),
    /// It breaks this limit; or so often was its process killed under it that it was given up.
    Breaks(&'static str),
}

struct Hostile {
    what: &'static str,
    source: &'static str,
    end: End,
}

/// All of them: one more is one more entry here.
const ALL: &[Hostile] = &[
    Hostile {
        what: "a signal's name with NUL",
        source: "import durable\n\nasync def main():\n    await durable.wait_signal('a\\0b')\n",
        end: End::Fails("ValueError", "control character"),
    },
    Hostile {
        what: "a function's name with NUL",
        source: "import durable\n\nasync def main():\n    await durable.call('a\\0b')\n",
        end: End::Fails("ValueError", "control character"),
    },
    Hostile {
        what: "a queue's name with NUL",
        source: "import durable\n\nasync def main():\n    await durable.call('f', queue='a\\0b')\n",
        end: End::Fails("ValueError", "cannot name a queue"),
    },
    Hostile {
        what: "a queue's name of 6,000 characters",
        source: "import durable\n\nasync def main():\n    await durable.call('f', queue='a' * 6000)\n",
        end: End::Fails("ValueError", "cannot name a queue"),
    },
    Hostile {
        what: "a child's name with NUL",
        source: "import durable\n\nasync def main():\n    await durable.run_child('a\\0b')\n",
        end: End::Fails("ValueError", "control character"),
    },
    Hostile {
        what: "a child's text with NUL",
        source: "import durable\n\nasync def main():\n    await durable.run_child('child.py', source=chr(0))\n",
        end: End::Fails("ValueError", "null bytes"),
    },
    Hostile {
        what: "a child that takes a client's key",
        source: "import durable\n\nasync def own():\n    return 1\n\nasync def main():\n    await durable.run_child(own, id='key-0')\n",
        end: End::Fails("ValueError", "idempotency keys"),
    },
    Hostile {
        what: "NUL printed, told, raised and returned",
        source: "import durable\n\nasync def main():\n    print('a\\0b')\n    durable.set_status('a\\0b')\n    try:\n        \
                 raise ValueError('a\\0b')\n    except ValueError as error:\n        return str(error)\n",
        end: End::Completes("\"a\\u0000b\""),
    },
    Hostile {
        what: "an exception with NUL that nobody catches",
        source: "async def main():\n    raise ValueError('a\\0b')\n",
        end: End::Fails("ValueError", "a"),
    },
    Hostile { what: "a text with NUL in it", source: "async def main():\n    return '\0'\n", end: End::Refused("NUL") },
];

/// Those that cost seconds of a processor, or a gigabyte: one of them now and then.
const HEAVY: &[Hostile] = &[
    Hostile {
        what: "a wait for a clock that stands still",
        source: "import time\n\nasync def main():\n    end = time.time() + 1\n    while time.time() < end:\n        pass\n",
        end: End::Breaks("TimeoutError"),
    },
    Hostile {
        what: "a loop after a call",
        source: "from builtin import add\n\nasync def main():\n    await add(1, 1)\n    while True:\n        pass\n",
        end: End::Breaks("TimeoutError"),
    },
    Hostile {
        what: "a list without end",
        source: "async def main():\n    kept = []\n    while True:\n        kept.append(bytes(1 << 20))\n",
        end: End::Breaks("MemoryError"),
    },
    Hostile {
        what: "a text that takes memory while it is parsed",
        source: "from builtin import add\n\nasync def main():\n    await add(1, 1)\n    exec('x=1\\n' * 6_000_000)\n    return await add(1, 1)\n",
        end: End::Breaks("MemoryError"),
    },
];

/// So many others come before each of them.
const SELDOM: usize = 14;

fn at(number: usize) -> &'static Hostile {
    match number % SELDOM {
        0 => &HEAVY[number / SELDOM % HEAVY.len()],
        _ => &ALL[number % ALL.len()],
    }
}

/// The hostile executions of a run.
#[derive(Default)]
pub(crate) struct Crowd {
    /// Which was started under each id.
    started: Mutex<HashMap<String, &'static Hostile>>,
    /// What was not refused as it should have been.
    wrong: Mutex<Vec<String>>,
}

impl Crowd {
    pub(crate) fn count(&self) -> usize {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Starts one after the other until told to stop. What is not acknowledged is asked for again.
    pub(crate) fn submit(&self, cluster: &Cluster, stop: &AtomicBool) {
        let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(5)).build();
        let Ok(client) = client else { return };
        for number in 1.. {
            let hostile = at(number);
            let id = format!("{PREFIX}{number}");
            let request = json!({"workflow": {"name": "hostile.py", "source": hostile.source}, "id": id});
            for attempt in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let sent = client.post(format!("{}/executions", cluster.api(attempt % 2))).json(&request).send();
                let answered = sent.and_then(|answer| Ok((answer.status(), answer.text()?)));
                match answered {
                    Ok((status, text)) if !status.is_server_error() => {
                        self.note(id, hostile, status, &text);
                        break;
                    }
                    _ => thread::sleep(Duration::from_millis(200)),
                }
            }
            thread::sleep(EVERY);
        }
    }

    fn note(&self, id: String, hostile: &'static Hostile, status: StatusCode, text: &str) {
        let fits = match hostile.end {
            End::Refused(part) => status == StatusCode::UNPROCESSABLE_ENTITY && text.contains(part),
            End::Fails(..) | End::Completes(_) | End::Breaks(_) => status.is_success(),
        };
        if !fits {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.push(format!("{}: answered {status}: {text}", hostile.what));
        }
        if status.is_success() {
            self.started.lock().unwrap_or_else(PoisonError::into_inner).insert(id, hostile);
        }
    }

    /// Whether each came to its end, and was not handed on and on.
    pub(crate) fn check(&self, cluster: &Cluster) -> Vec<Check> {
        let rows = cluster.sql(&format!(
            "SELECT id || ' ' || epoch || ' ' || coalesce(output, error, status) FROM executions WHERE id LIKE '{PREFIX}%'"
        ));
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut most = 0;
        let mut seen = 0;
        for (id, rest) in rows.lines().filter_map(|row| row.split_once(' ')) {
            let (epoch, end) = rest.split_once(' ').unwrap_or_default();
            most = most.max(epoch.parse::<i64>().unwrap_or(i64::MAX));
            seen += 1;
            // One that was started and not acknowledged may be there too.
            if let Some(hostile) = started.get(id)
                && !hostile.end.is(end)
            {
                wrong.push(format!("{id}, {}: {end}", hostile.what));
            }
        }
        if seen < started.len() {
            wrong.push(format!("{} of {} are missing", started.len() - seen, started.len()));
        }
        let held = wrong.is_empty();
        let detail = if held { format!("{seen} right") } else { wrong.join("; ") };
        let handed_on = format!("{most} claims at most");
        vec![
            Check { what: "every hostile execution ended with its sentence", held, detail },
            Check { what: "no hostile execution was handed on and on", held: most <= MOST_CLAIMS, detail: handed_on },
        ]
    }
}

impl End {
    /// Whether an output, or a failure as the database has it, is this.
    fn is(&self, end: &str) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Completes(output) => *output == end,
            Self::Breaks(kind) => serde_json::from_str::<Value>(end).is_ok_and(|failure| {
                let says = |kind: &str, part: &str| {
                    failure["type"] == kind && failure["message"].as_str().is_some_and(|message| message.contains(part))
                };
                says(kind, "limit exceeded") || says("durable.WorkerLost", "times in a row")
            }),
            Self::Fails(kind, part) => serde_json::from_str::<Value>(end).is_ok_and(|failure| {
                failure["type"] == *kind && failure["message"].as_str().is_some_and(|message| message.contains(part))
            }),
        }
    }
}
