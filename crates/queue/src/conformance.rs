//! What every [`Queue`] must do, as functions that panic when one does not.
//!
//! An implementation's tests call [`run`] with a way to make an empty queue of a given lease and
//! capacity.

use std::{future::Future, time::Duration};

use crate::{Bell, Enqueued, Fate, Job, JobId, Lease, Queue, Way};

/// Long enough never to expire in a test.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const ROOMY: usize = 100_000;

/// Runs the whole suite; `make(lease, capacity)` gives an empty queue each time.
pub async fn run<Q: Queue, F: Future<Output = Q>>(make: impl Fn(Duration, usize) -> F) {
    a_job_is_taken_once_and_gone_when_acknowledged(make(LONG, ROOMY).await).await;
    jobs_come_in_the_order_they_were_pushed(make(LONG, ROOMY).await).await;
    queues_are_served_in_the_order_they_are_named(make(LONG, ROOMY).await).await;
    pushing_again_is_refused_until_the_generation_grows(make(LONG, ROOMY).await).await;
    a_newer_generation_fences_the_old_holder(make(LONG, ROOMY).await).await;
    a_full_queue_says_so(make(LONG, 2).await).await;
    a_released_job_is_first_again(make(LONG, ROOMY).await).await;
    a_job_that_is_passed_on_is_last(make(LONG, ROOMY).await).await;
    a_refused_job_is_gone(make(LONG, ROOMY).await).await;
    a_bell_is_heard(make(LONG, ROOMY).await).await;
    an_expired_lease_goes_to_another_and_its_holder_has_lost(make(SHORT, ROOMY).await).await;
    a_beating_holder_keeps_its_job(make(Duration::from_millis(300), ROOMY).await).await;
    a_waiting_job_can_be_cancelled_a_leased_one_not(make(LONG, ROOMY).await).await;
    a_waiting_pop_is_woken_by_a_push(make(LONG, ROOMY).await).await;
    many_takers_get_each_job_once(make(LONG, ROOMY).await).await;
}

fn job(id: &str, queue: &str, generation: u64) -> Job {
    Job {
        id: JobId(id.to_owned()),
        queue: queue.to_owned(),
        generation,
        body: format!("[\"tasks.{id}\",null,[],{{}}]"),
    }
}

async fn push(queue: &impl Queue, job: Job) -> Enqueued {
    queue.enqueue(vec![job]).await.unwrap()[0]
}

async fn pop(queue: &impl Queue, names: &[&str], max: usize) -> Vec<Lease> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    queue.pop(&names, "w1", max, Duration::ZERO).await.unwrap()
}

fn ids(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| lease.job.id.0.as_str()).collect()
}

async fn a_job_is_taken_once_and_gone_when_acknowledged(queue: impl Queue) {
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Queued);
    assert_eq!(queue.depth("q").await.unwrap(), 1);
    let taken = pop(&queue, &["q"], 10).await;
    assert_eq!(taken[0].job, job("a", "q", 1));
    assert_eq!(queue.depth("q").await.unwrap(), 0);
    assert!(pop(&queue, &["q"], 10).await.is_empty());
    assert_eq!(queue.end(&taken[0], Way::Done).await.unwrap(), Fate::Done);
    assert_eq!(queue.end(&taken[0], Way::Done).await.unwrap(), Fate::Lost, "a lease ends once");
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Queued, "a finished job is forgotten");
}

async fn jobs_come_in_the_order_they_were_pushed(queue: impl Queue) {
    queue.enqueue((0..5).map(|n| job(&format!("j{n}"), "q", 1)).collect()).await.unwrap();
    assert_eq!(ids(&pop(&queue, &["q"], 3).await), ["j0", "j1", "j2"]);
    assert_eq!(ids(&pop(&queue, &["q"], 3).await), ["j3", "j4"]);
}

async fn queues_are_served_in_the_order_they_are_named(queue: impl Queue) {
    push(&queue, job("low", "low", 1)).await;
    push(&queue, job("high", "high", 1)).await;
    push(&queue, job("other", "other", 1)).await;
    assert_eq!(ids(&pop(&queue, &["high", "low"], 10).await), ["high", "low"]);
}

async fn pushing_again_is_refused_until_the_generation_grows(queue: impl Queue) {
    push(&queue, job("a", "q", 1)).await;
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Duplicate);
    let taken = pop(&queue, &["q"], 1).await;
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Duplicate, "also while it is held");
    assert_eq!(push(&queue, job("a", "q", 2)).await, Enqueued::Queued);
    assert_eq!(queue.depth("q").await.unwrap(), 1);
    drop(taken);
}

async fn a_newer_generation_fences_the_old_holder(queue: impl Queue) {
    push(&queue, job("a", "q", 1)).await;
    let old = pop(&queue, &["q"], 1).await.remove(0);
    push(&queue, job("a", "q", 2)).await;
    assert_eq!(queue.end(&old, Way::Done).await.unwrap(), Fate::Lost);
    assert_eq!(queue.beat(std::slice::from_ref(&old)).await.unwrap(), [old]);
    assert_eq!(pop(&queue, &["q"], 1).await[0].job.generation, 2);
}

async fn a_full_queue_says_so(queue: impl Queue) {
    let answers = queue.enqueue(vec![job("a", "q", 1), job("b", "q", 1), job("c", "q", 1)]).await.unwrap();
    assert_eq!(answers, [Enqueued::Queued, Enqueued::Queued, Enqueued::Full]);
    let first = pop(&queue, &["q"], 1).await.remove(0);
    assert_eq!(push(&queue, job("c", "q", 1)).await, Enqueued::Queued, "the refused job left no trace");
    drop(first);
}

async fn a_released_job_is_first_again(queue: impl Queue) {
    queue.enqueue(vec![job("a", "q", 1), job("b", "q", 1)]).await.unwrap();
    let first = pop(&queue, &["q"], 1).await.remove(0);
    assert_eq!(queue.end(&first, Way::Front).await.unwrap(), Fate::Done);
    assert_eq!(queue.end(&first, Way::Front).await.unwrap(), Fate::Lost);
    assert_eq!(ids(&pop(&queue, &["q"], 2).await), ["a", "b"]);
}

async fn a_job_that_is_passed_on_is_last(queue: impl Queue) {
    queue.enqueue(vec![job("a", "q", 1), job("b", "q", 1)]).await.unwrap();
    let first = pop(&queue, &["q"], 1).await.remove(0);
    assert_eq!(queue.end(&first, Way::Back).await.unwrap(), Fate::Done);
    assert_eq!(queue.end(&first, Way::Back).await.unwrap(), Fate::Lost);
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Duplicate, "it waits again");
    let again = pop(&queue, &["q"], 2).await;
    assert_eq!(ids(&again), ["b", "a"]);
    assert_eq!(again[1].deliveries, 1, "a lease that was given back does not count");
}

async fn a_refused_job_is_gone(queue: impl Queue) {
    push(&queue, job("a", "q", 1)).await;
    let held = pop(&queue, &["q"], 1).await.remove(0);
    assert_eq!(queue.end(&held, Way::Refused).await.unwrap(), Fate::Done);
    assert_eq!(queue.end(&held, Way::Refused).await.unwrap(), Fate::Lost);
    assert!(pop(&queue, &["q"], 1).await.is_empty());
    assert_eq!(push(&queue, job("a", "q", 1)).await, Enqueued::Queued, "pushed again, it gets another chance");
}

async fn a_bell_is_heard(queue: impl Queue) {
    let mut bells = queue.bells();
    // A listener that has just come may miss what rings at the same moment.
    let heard = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            queue.ring(Bell::Ended("e".into())).await.unwrap();
            if let Ok(Ok(bell)) = tokio::time::timeout(Duration::from_millis(100), bells.recv()).await {
                return bell;
            }
        }
    });
    assert_eq!(heard.await.unwrap(), Bell::Ended("e".into()));
}

async fn an_expired_lease_goes_to_another_and_its_holder_has_lost(queue: impl Queue) {
    queue.enqueue(vec![job("a", "q", 1), job("b", "q", 1)]).await.unwrap();
    let old = pop(&queue, &["q"], 1).await.remove(0);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while queue.sweep().await.unwrap().put_back == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let new = pop(&queue, &["q"], 1).await.remove(0);
    assert_eq!(new.job, old.job, "it is first in line again");
    assert_eq!((old.deliveries, new.deliveries), (1, 2));
    assert_ne!(new.token, old.token);
    assert_eq!(queue.end(&old, Way::Done).await.unwrap(), Fate::Lost);
    assert_eq!(queue.end(&old, Way::Front).await.unwrap(), Fate::Lost);
    assert_eq!(queue.end(&new, Way::Done).await.unwrap(), Fate::Done, "the late holder took nothing away");
}

async fn a_beating_holder_keeps_its_job(queue: impl Queue) {
    push(&queue, job("a", "q", 1)).await;
    let held = pop(&queue, &["q"], 1).await.remove(0);
    let until = tokio::time::Instant::now() + Duration::from_millis(900);
    while tokio::time::Instant::now() < until {
        assert_eq!(queue.beat(std::slice::from_ref(&held)).await.unwrap(), []);
        assert_eq!(queue.sweep().await.unwrap().put_back, 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
}

async fn a_waiting_job_can_be_cancelled_a_leased_one_not(queue: impl Queue) {
    push(&queue, job("a", "q", 1)).await;
    assert!(queue.cancel("q", &JobId("a".into())).await.unwrap());
    assert!(!queue.cancel("q", &JobId("a".into())).await.unwrap());
    assert!(pop(&queue, &["q"], 1).await.is_empty());
    push(&queue, job("a", "q", 1)).await;
    let held = pop(&queue, &["q"], 1).await.remove(0);
    assert!(!queue.cancel("q", &JobId("a".into())).await.unwrap());
    assert_eq!(queue.end(&held, Way::Done).await.unwrap(), Fate::Done);
}

async fn a_waiting_pop_is_woken_by_a_push(queue: impl Queue) {
    let names = ["q".to_owned()];
    let (taken, ()) = tokio::join!(queue.pop(&names, "w1", 1, Duration::from_secs(20)), async {
        tokio::task::yield_now().await;
        push(&queue, job("a", "q", 1)).await;
    });
    assert_eq!(ids(&taken.unwrap()), ["a"]);
}

async fn many_takers_get_each_job_once(queue: impl Queue) {
    let queue = std::sync::Arc::new(queue);
    queue.enqueue((0..1000).map(|n| job(&format!("j{n}"), "q", 1)).collect()).await.unwrap();
    let takers: Vec<_> = (0..8)
        .map(|n| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let taken = queue.pop(&["q".to_owned()], &format!("w{n}"), 7, Duration::ZERO).await.unwrap();
                    if taken.is_empty() {
                        return mine;
                    }
                    for lease in taken {
                        assert_eq!(queue.end(&lease, Way::Done).await.unwrap(), Fate::Done);
                        mine.push(lease.job.id.0);
                    }
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for taker in takers {
        all.extend(taker.await.unwrap());
    }
    all.sort();
    let mut expected: Vec<String> = (0..1000).map(|n| format!("j{n}")).collect();
    expected.sort();
    assert_eq!(all, expected);
}
