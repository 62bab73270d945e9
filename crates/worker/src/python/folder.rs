//! The host's Python files, where the interpreter and what functions start can import them.

use std::{fs, io, path::Path};

use tempfile::TempDir;

const FILES: [(&str, &str); 8] = [
    ("_durable_host.py", include_str!("host.py")),
    // The package for plain CPython has it too.
    ("_durable_fit.py", include_str!("../../../../python/durable/_fit.py")),
    ("_durable_marks.py", include_str!("host/marks.py")),
    ("_durable_output.py", include_str!("host/output.py")),
    ("_durable_threads.py", include_str!("host/threads.py")),
    ("_durable_values.py", include_str!("host/values.py")),
    ("_durable_wire.py", include_str!("host/wire.py")),
    ("durable.py", include_str!("host/durable.py")),
];

/// A folder of this process alone, removed when it is dropped. Should this process be killed, the Python
/// processes remove it.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("durable-host.").tempdir()?;
        for (name, text) in FILES {
            fs::write(folder.path().join(name), text)?;
        }
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}
