//! Rust functions for a workflow: a registry, and a run.

use std::{collections::BTreeMap, path::Path};

use durable_worker::{FunctionError, FunctionOptions, Registry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let registry = Registry::new()
        .function("word_count", |text: String| async move {
            let mut words = BTreeMap::new();
            text.split_whitespace().for_each(|word| *words.entry(word.to_owned()).or_insert(0) += 1);
            Ok::<_, FunctionError>(words)
        })
        .function_with(
            "checksum",
            &["text", "rounds"],
            FunctionOptions::default(),
            |text: String, rounds: Option<u32>| async move {
                let sum = |seed: u64| text.bytes().fold(seed, |sum, byte| (sum * 31 + u64::from(byte)) % 9973);
                Ok::<_, FunctionError>((0..rounds.unwrap_or(1)).fold(7, |seed, _| sum(seed)))
            },
        );
    let workflow = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: rust-functions WORKFLOW.py"))?;
    let output = durable_cli::run(registry, "sqlite://rust_functions.db", Path::new(&workflow)).await?;
    println!("{output}");
    Ok(())
}
