//! One file per command.

mod bench;
mod check;
mod control;
mod delete;
mod revive;
mod run;
mod start;
pub(crate) mod view;

use std::process::ExitCode;

use crate::args::Command;

/// Does what was asked for.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args).await,
        Command::Resume(args) => run::resume(args).await,
        Command::Start(args) => start::start(args).await,
        Command::Migrate(args) => view::migrate(&args).await,
        Command::List(args) => view::list(args).await,
        Command::Show(args) => view::show(args).await,
        Command::Calls(args) => view::calls(args).await,
        Command::Result(args) => view::result(args).await,
        Command::Logs(args) => view::logs(args).await,
        Command::Signal(args) => control::signal(args).await,
        Command::Complete(args) => control::complete(args).await,
        Command::Cancel(args) => control::cancel(args).await,
        Command::Pause(args) => control::pause(args).await,
        Command::Retry(args) => revive::retry(args).await,
        Command::Fork(args) => revive::fork(args).await,
        Command::Deploy(args) => control::deploy(args).await,
        Command::Workflows(args) => control::workflows(args).await,
        Command::Check(args) => check::check(&args),
        Command::Delete(args) => delete::delete(args).await,
        Command::Bench(args) => bench::bench(args).await,
    }
}
