//! A private Postgres: made when a test first asks for it, thrown away with the test process.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use durable_core::store::DatabaseUrl;

/// What to say when there is none.
const MISSING: &str = "Postgres is needed for these tests and was not found: apt-get install postgresql \
                       (./scripts/test does that), or put initdb and postgres on the PATH";

/// A cluster on a free port of this machine. Everything in it is thrown away.
pub struct Postgres {
    port: u16,
    _watcher: (Child, ChildStdin),
    databases: AtomicUsize,
}

impl Postgres {
    /// The cluster of this test process.
    ///
    /// # Panics
    /// When there is no Postgres on the machine, with the sentence that says how to get one.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("{error}")))
    }

    fn start() -> Result<Self, String> {
        let programs = programs().ok_or(MISSING)?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("no free port: {error}"))?
            .port();
        // The shell outlives this process just long enough to clean up: its stdin closes with us.
        let script = r#"
            set -e
            dir=$(mktemp -d /tmp/durable-test-postgres.XXXXXX)
            as=""
            if [ "$(id -u)" = 0 ]; then
                chown postgres "$dir"
                as="runuser -u postgres --"
            fi
            cd /
            $as "$1/initdb" -D "$dir/data" -U durable -A trust -E UTF8 --no-sync >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
            $as "$1/postgres" -D "$dir/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
                -c fsync=off -c max_connections=200 >"$dir/log" 2>&1 &
            server=$!
            echo started
            cat >/dev/null || true
            kill -QUIT $(head -1 "$dir/data/postmaster.pid") 2>/dev/null || kill $server 2>/dev/null || true
            wait $server 2>/dev/null || true
            rm -rf "$dir"
        "#;
        let mut watcher = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&programs)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start sh: {error}"))?;
        let stdin = watcher.stdin.take().ok_or("sh has no stdin")?;
        let mut output = BufReader::new(watcher.stdout.take().ok_or("sh has no stdout")?);
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim() != "started" {
            let mut rest = String::new();
            let _ = output.read_to_string(&mut rest);
            return Err(format!("Postgres does not start: {line}{rest}"));
        }
        let cluster = Self { port, _watcher: (watcher, stdin), databases: AtomicUsize::new(0) };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.sql("SELECT 1") {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(format!("Postgres is not ready: {error}")),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn sql(&self, statement: &str) -> Result<(), String> {
        let output = Command::new("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "durable",
                "-d",
                "postgres",
                "-qc",
                statement,
            ])
            .output()
            .map_err(|error| format!("{MISSING} ({error})"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn database(&self) -> DatabaseUrl {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name}")).unwrap_or_else(|error| panic!("{error}"));
        DatabaseUrl::Postgres(format!("postgres://durable@127.0.0.1:{}/{name}", self.port))
    }
}

/// The folder that holds `initdb` and `postgres`, the newest version first.
fn programs() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&on_path));
    let complete = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    folders.into_iter().find(|folder| complete(folder))
}
