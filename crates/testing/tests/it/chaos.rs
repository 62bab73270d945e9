//! Chaos for a minute: `./scripts/chaos` runs it for as long as you like.

use std::process::Command;

use durable_testing::program;

#[test]
fn all_invariants_hold_through_a_minute_of_chaos() {
    let output = Command::new(program("durable-chaos")).args(["--seconds", "60", "--seed", "20260"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let verdict = out.trim_end().lines().last().unwrap();
    assert!(verdict.starts_with("all invariants held: "), "{out}");
    let executions: u32 = verdict.split(' ').nth(3).unwrap().parse().unwrap();
    assert!(executions >= 100, "only {verdict}");
}
