//! What a process says of itself on stderr.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Options of the log.
#[derive(Debug, Clone, Args)]
pub struct Logging {
    /// What to log to stderr, such as warn, info or durable_core=debug.
    #[arg(long, env = "DURABLE_LOG", global = true, hide_env_values = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to write it: text, or one JSON object per line.
    #[arg(long, env = "DURABLE_LOG_FORMAT", default_value = "text", global = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl Logging {
    /// Begins to log, by the filter `unasked` when none was given. A filter that makes no sense is an error.
    pub fn start(&self, unasked: &str) -> anyhow::Result<()> {
        let log = self.log.as_deref().unwrap_or(unasked);
        let filter = EnvFilter::try_new(log)
            .map_err(|error| super::wrong(format!("--log {log:?} is no log filter: {error}")))?;
        // A span's end is logged with its time only when somebody asks for that much.
        let spans = if log.contains("trace") { FmtSpan::CLOSE } else { FmtSpan::NONE };
        let lines =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(spans);
        match self.log_format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
        Ok(())
    }
}
