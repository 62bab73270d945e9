//! `durable bench`.
use std::process::ExitCode;
use crate::args;
pub(crate) async fn bench(_args: args::Bench) -> anyhow::Result<ExitCode> { anyhow::bail!("todo") }
