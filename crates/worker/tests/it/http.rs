//! Functions behind URLs: what they answer is bounded.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use durable_worker::{FunctionOptions, HttpFunction, Registry};
use serde_json::{Value, json};

use crate::worker::call;

/// What one of them answers to everybody.
enum Answer {
    /// These bytes.
    Whole(String),
    /// This head, then spaces for ever.
    Endless(&'static str),
}

/// A server that reads each request and gives that answer; counts the bytes that were taken of it.
fn serve(answer: Answer) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut request = [0; 4096];
            let _ = connection.read(&mut request);
            match &answer {
                Answer::Whole(text) => drop(connection.write_all(text.as_bytes())),
                Answer::Endless(head) => {
                    let _ = connection.write_all(head.as_bytes());
                    let part = [b' '; 64 << 10];
                    while connection.write_all(&part).is_ok() {
                        counted.fetch_add(part.len(), Ordering::Relaxed);
                    }
                }
            }
        }
    });
    (url, taken)
}

fn result(text: &str) -> Answer {
    let length = text.len();
    Answer::Whole(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"))
}

/// What a workflow that calls it comes to: its output, or type and sentence of its failure.
async fn called(answer: Answer, limit: usize) -> (Result<Value, (String, String)>, usize) {
    let (url, taken) = serve(answer);
    let function = HttpFunction::new(&url, None).unwrap().answering_at_most(limit);
    let mut registry = Registry::new();
    registry.add("far.get", FunctionOptions::default(), Arc::new(function));
    let came_to = call(&registry, "far.get", json!([]), json!({})).await;
    let came_to = came_to.map_err(|failure| (failure.kind, failure.message));
    (came_to, taken.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fits_is_the_result() {
    assert_eq!(called(result("[1, 2]"), 6).await.0, Ok(json!([1, 2])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_answer_is_refused_with_its_size_and_the_option() {
    let (kind, why) = called(result("[1, 2, 3]"), 6).await.0.unwrap_err();
    assert_eq!(kind, "ValueError");
    assert!(why.contains("9 bytes") && why.contains("at most 6") && why.contains("--http-answer-limit"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_dropped_when_it_is_too_large() {
    const LIMIT: usize = 1 << 20;
    let began = Instant::now();
    let (came_to, taken) = called(Answer::Endless("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"), LIMIT).await;
    let (kind, why) = came_to.unwrap_err();
    assert!(kind == "ValueError" && why.contains("at most 1048576"), "{kind}: {why}");
    // What is in the buffers of the system on the way is not ours.
    assert!(taken < 64 * LIMIT, "{taken} bytes were taken");
    assert!(began.elapsed() < Duration::from_secs(20), "it is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_error_only_the_beginning_is_read() {
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nno such thing";
    let (came_to, taken) = called(Answer::Endless(head), 1 << 20).await;
    let (_, why) = came_to.unwrap_err();
    assert!(why.contains("400") && why.contains("no such thing"), "{why}");
    assert!(taken < 64 << 20, "{taken} bytes were taken");
}
