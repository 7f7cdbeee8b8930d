//! `make demo`: runs the demo and writes out/demo/result.json.

use anyhow::{Context as _, Result};
use metalstrap_qemu::RunDir;
use metalstrap_tests::{artifacts, demo};

fn main() -> Result<()> {
    let console = std::env::var_os("CONSOLE").is_some();
    let run = RunDir::new("demo")?;
    let outcome = demo::run(run.path(), console)?;
    let dir = artifacts::out().join("demo");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let json = serde_json::to_string_pretty(&outcome)?;
    std::fs::write(dir.join("result.json"), format!("{json}\n")).context("writing out/demo/result.json")?;
    println!("{json}\n==> written to out/demo/result.json");
    run.passed()
}
