//! `durable-start`: hands a workflow to a server.

use std::process::ExitCode;

fn main() -> ExitCode {
    durable_cli::start_main()
}
