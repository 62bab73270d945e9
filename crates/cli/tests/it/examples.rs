//! Every example, run as its README says.

use std::path::Path;

use serde_json::json;

use crate::{Shell, example};

#[test]
fn simple_parallel() {
    let shell = Shell::new();
    assert_eq!(
        shell.output_of(&["run", &example("simple_parallel"), "--input", "a=5"]),
        json!({"sum": 8, "product": 15})
    );
}

#[test]
fn video_encoding_with_the_encoder_that_is_there() {
    videos(&Shell::new(), None);
}

#[test]
fn video_encoding_with_the_stand_in() {
    // A path without ffmpeg: only the Python that runs the functions.
    let shell = Shell::new();
    let bin = shell.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let which =
        std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let python = String::from_utf8(which.stdout).unwrap();
    std::os::unix::fs::symlink(python.trim(), bin.join("python3")).unwrap();
    videos(&shell, Some(&bin));
}

fn videos(shell: &Shell, path: Option<&Path>) {
    let mut command = shell.command(&["run", &example("video_encoding"), "--input", "seconds=1"]);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let said = crate::Said::from(command.output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let output: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(output["playlist"], "encoded/playlist.m3u8");
    assert_eq!(output["videos"].as_array().unwrap().len(), 4);
    let playlist = std::fs::read_to_string(shell.path().join("encoded/playlist.m3u8")).unwrap();
    let entries: Vec<&str> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(entries.len(), 4, "{playlist}");
    for entry in &entries {
        let size = std::fs::metadata(shell.path().join("encoded").join(entry)).unwrap().len();
        assert!(size > 100, "{entry} has {size} bytes");
    }
    let ffmpeg = path.is_none() && std::process::Command::new("ffmpeg").arg("-version").output().is_ok();
    assert_eq!(ffmpeg, entries[0].ends_with(".mp4"), "{entries:?}");
    let runs = std::fs::read_to_string(shell.path().join("encoded/runs.log")).unwrap();
    assert_eq!(runs.lines().count(), 4, "each encoding ran once: {runs}");
}

#[test]
fn nested_gather() {
    let output = Shell::new().output_of(&["run", &example("nested_gather")]);
    assert_eq!(
        output,
        json!({"total": 415, "reports": [
            {"region": "north", "total": 128, "largest": "Aalborg"},
            {"region": "south", "total": 215, "largest": "Odense"},
            {"region": "west", "total": 72, "largest": "Esbjerg"},
        ]})
    );
}

#[test]
fn error_handling() {
    let shell = Shell::new();
    let booked = shell.output_of(&["run", &example("error_handling"), "--id", "ok"]);
    assert_eq!(booked["bookings"], json!(["flight to Lisbon", "3 nights in Lisbon", "car in Lisbon"]));
    let hotel = &shell.json(&["calls", "ok", "--json"])[1];
    assert_eq!(hotel["attempt"], 3);
    assert_eq!(hotel["failed_attempts"][1]["error"]["message"], "no answer (try 2)");
    let undone = shell.output_of(&["run", &example("error_handling"), "--input", r#"city="Venice""#, "--id", "no"]);
    assert_eq!(undone, json!({"status": "cancelled", "why": "tasks.SoldOut: no cars in Venice", "undone": 2}));
    let logs = shell.durable(&["logs", "no"]).out;
    let hotel = logs.find("cancelled: 3 nights in Venice").expect("the hotel is cancelled");
    assert!(hotel < logs.find("cancelled: flight to Venice").expect("and then the flight"), "{logs}");
}

#[test]
fn long_sleep_across_a_restart() {
    let shell = Shell::new();
    let args = ["run", &example("long_sleep"), "--input", "seconds=2.5", "--id", "z"];
    let begun = std::time::Instant::now();
    let mut run = shell.command(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = begun + std::time::Duration::from_secs(20);
    while !shell.durable(&["show", "z"]).out.contains("sleep 2.5s") {
        assert!(std::time::Instant::now() < deadline, "it never sleeps");
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(shell.output_of(&["resume", "z"]), json!(["you: welcome", "you: still there?"]));
    assert!(begun.elapsed().as_secs_f64() >= 2.5);
    let sent = std::fs::read_to_string(shell.path().join("sent.log")).unwrap();
    assert_eq!(sent.lines().count(), 2, "each message once: {sent}");
}
