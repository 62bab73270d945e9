//! `durable bench`: what the engine itself costs, with Rust functions that do nothing.

mod distributed;
mod embedded;

use std::{process::ExitCode, time::Duration};

use serde_json::json;

use crate::{args, output::line};

/// How often `chain` is run.
const CHAINS: usize = 5;

/// How long any one load may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// Measures and prints.
pub(crate) async fn bench(args: args::Bench) -> anyhow::Result<ExitCode> {
    let sizes = Sizes { down: args.scale_down as usize };
    if args.distributed {
        distributed::bench(&args, &sizes).await?
    } else {
        embedded::bench(&args, &sizes).await?
    }
    Ok(ExitCode::SUCCESS)
}

/// The loads that were asked for.
fn works(args: &args::Bench) -> Vec<String> {
    if args.work.is_empty() {
        ["chain", "latency", "fanout", "wide"].map(String::from).to_vec()
    } else {
        args.work.clone()
    }
}

/// What figures depend on.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let profile = if cfg!(debug_assertions) { "dev profile" } else { "release" };
    format!("{processors} processors, {profile}")
}

/// One figure.
struct Figure {
    metric: &'static str,
    value: f64,
    unit: &'static str,
}

fn figure(metric: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { metric, value, unit }
}

fn print(work: &str, figure: &Figure, as_json: bool) {
    let Figure { metric, value, unit } = figure;
    if as_json {
        line(json!({"work": work, "metric": metric, "value": value, "unit": unit}));
    } else {
        line(format_args!("{work:8} {metric:20} {value:>12.3} {unit}"));
    }
}

struct Sizes {
    down: usize,
}

impl Sizes {
    fn of(&self, full: usize) -> usize {
        (full / self.down).max(1)
    }
}

fn joined<T>(joined: Option<Result<anyhow::Result<T>, tokio::task::JoinError>>) -> anyhow::Result<T> {
    joined.ok_or_else(|| anyhow::anyhow!("no task is left"))??
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn count(count: usize) -> f64 {
    count as f64
}

/// The value below which this part of the values lies.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (count(values.len().saturating_sub(1)) * part).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
