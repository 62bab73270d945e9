//! The program, as people use it.

mod allow;
mod bad_input;
mod bench;
mod children;
mod control;
mod differential;
mod examples;
mod mend;
mod readme;
mod run;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder to work in, with `durable` at hand.
pub(crate) struct Shell {
    pub(crate) folder: TempDir,
}

/// What a command did.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_durable"));
        command.args(args).current_dir(self.path());
        for variable in ["DURABLE_DATABASE_URL", "DURABLE_API_URL", "DURABLE_LOG", "DURABLE_PYTHON"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn durable(&self, args: &[&str]) -> Said {
        Said::from(self.command(args).output().unwrap())
    }

    /// Runs a workflow with these functions and gives its output.
    pub(crate) fn output_of(&self, args: &[&str]) -> Value {
        let said = self.durable(args);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
    }

    /// The same; null when there is nothing yet.
    pub(crate) fn json_or_null(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.durable(args).out).unwrap_or_default()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let said = self.durable(args);
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}{}", said.out, said.err))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The folder of an example.
pub(crate) fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    root.join("examples").join(name).join("workflow.py").display().to_string()
}
