//! What the programs share: the options that name servers, logs, signals, the name of a process, exit codes.

mod exit;
mod files;
mod logging;
mod owner;
mod quotas;
mod secrets;
mod servers;
mod signals;
mod sizes;

pub use exit::{Coded, EXECUTION_FAILED, INTERRUPTED, NOT_THERE, SYSTEM, WRONG, not_there, report, run_program, wrong};
pub use files::open_files;
pub use logging::{LogFormat, Logging};
pub use owner::{Owner, host, look_up, named_process, this_process};
pub use quotas::Quotas;
pub use servers::{Servers, Timing};
pub use signals::{asked_to_stop, stop_on_signals};
pub use sizes::parse_size;
