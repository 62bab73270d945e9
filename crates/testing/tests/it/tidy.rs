//! The rules of the tree: what each crate must never know.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sources(folder: &str, found: &mut Vec<PathBuf>) {
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(folder, &mut found);
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// Lines of code, without comments, that hold one of the words.
fn lines_with(file: &Path, words: &[&str]) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| words.iter().any(|word| line.contains(word)))
        .map(|line| format!("{}: {line}", file.display()))
        .collect()
}

fn must_never(folder: &str, except: &[&str], words: &[&str]) {
    let allowed = |file: &PathBuf| except.iter().any(|part| file.to_string_lossy().contains(part));
    let found: Vec<String> =
        rust_files(folder).iter().filter(|file| !allowed(file)).flat_map(|file| lines_with(file, words)).collect();
    assert!(found.is_empty(), "{folder} must never mention {words:?}:\n{}", found.join("\n"));
}

#[test]
fn only_the_store_speaks_diesel() {
    must_never("crates/core/src", &["/store/"], &["diesel"]);
    for folder in ["crates/queue/src", "crates/worker/src", "crates/orchestrator/src", "crates/cli/src"] {
        must_never(folder, &[], &["diesel"]);
    }
}

#[test]
fn only_the_interpreter_names_monty() {
    must_never("crates/core/src", &["/interpreter/"], &["monty::", "monty_types", "Monty"]);
    // The project has a name.
    must_never("crates/worker/src", &["main.rs"], &["monty::", "monty_"]);
    must_never("crates/orchestrator/src", &["main.rs"], &["monty::", "monty_"]);
    must_never("crates/cli/src", &["main.rs"], &["monty::", "monty_"]);
}

#[test]
fn unsafe_code_stands_in_the_allocator_alone() {
    for folder in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = folder.unwrap().file_name().to_string_lossy().into_owned();
        let manifest = std::fs::read_to_string(root().join("crates").join(&folder).join("Cargo.toml")).unwrap();
        let forbids = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(forbids, folder != "memory", "{folder}");
    }
    assert_eq!(rust_files("crates/memory/src").len(), 1);
}

#[test]
fn the_queue_knows_no_database_execution_or_interpreter() {
    must_never("crates/queue/src", &[], &["durable_core", "Execution", "sqlite", "postgres"]);
}

#[test]
fn keys_of_redis_are_spelt_in_one_place() {
    // The scripts' names for them stand beside, in lua/keys.lua.
    must_never("crates/queue/src/redis", &["keys.rs"], &["\":queue", "}:queue:", "}:job:", "}:wip:", "}:worker"]);
    for file in std::fs::read_dir(root().join("crates/queue/src/redis/lua")).unwrap() {
        let file = file.unwrap().path();
        if file.ends_with("keys.lua") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("P .. ':"), "{}: spell the key in keys.lua", file.display());
    }
}

#[test]
fn the_core_knows_no_redis_http_command_line_or_environment() {
    must_never("crates/core/src", &[], &["redis", "http", "clap", "std::env", "env::var"]);
}

#[test]
fn the_orchestrator_runs_no_functions_and_the_worker_serves_no_http() {
    must_never("crates/orchestrator/src", &[], &["durable_worker"]);
    must_never("crates/worker/src", &[], &["axum", "hyper", "askama"]);
}

#[test]
fn dependencies_point_one_way() {
    let depends = |name: &str, on: &str| {
        let manifest = std::fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        let normal = manifest.split("[dev-dependencies]").next().unwrap().to_owned();
        normal.contains(&format!("durable-{on}.workspace"))
    };
    for (name, never) in [
        ("queue", &["core", "process", "worker", "orchestrator", "cli", "testing"][..]),
        ("core", &["process", "worker", "orchestrator", "cli", "testing"]),
        ("process", &["worker", "orchestrator", "cli", "testing"]),
        ("worker", &["orchestrator", "cli", "testing"]),
        ("orchestrator", &["worker", "cli", "testing"]),
        ("cli", &["testing"]),
    ] {
        for on in never {
            assert!(!depends(name, on), "{name} must not depend on {on}");
        }
    }
}

#[test]
fn server_paths_have_no_unwrap() {
    for folder in ["queue", "core", "process", "worker", "orchestrator", "cli"] {
        for file in rust_files(&format!("crates/{folder}/src")) {
            if file.ends_with("conformance.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for word in [".unwrap()", ".expect("] {
                assert!(!code.contains(word), "{}: {word}", file.display());
            }
        }
    }
}

#[test]
fn migrations_have_the_same_names_for_both_databases() {
    let names = |backend: &str| {
        let folder = root().join("migrations").join(backend);
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
}

#[test]
fn files_stay_readable() {
    for folder in ["queue", "core", "process", "worker", "orchestrator", "cli", "testing"] {
        for file in rust_files(&format!("crates/{folder}/src")) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 700, "{} has {lines} lines: split it", file.display());
        }
    }
}

#[test]
fn the_top_level_holds_what_it_should() {
    let mut names: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    names.sort();
    let known = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "Dockerfile",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "clippy.toml",
        "crates",
        "docker-compose.yml",
        "docs",
        "examples",
        "migrations",
        "python",
        "rustfmt.toml",
        "scripts",
    ];
    let strangers: Vec<&String> = names.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(strangers.is_empty(), "{strangers:?} do not belong there");
    for needed in ["Cargo.toml", "crates", "migrations", "docker-compose.yml", "examples", "scripts", "README.md"] {
        assert!(names.iter().any(|name| name == needed), "{needed} is missing");
    }
}
