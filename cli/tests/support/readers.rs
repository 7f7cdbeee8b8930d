//! A repository as other implementations of The Update Framework read it: python-tuf, and the library tough the way that
//! tuftool calls it, with none of our code between.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use metalstrap_release::digest::Digest;
use serde_json::{Map, Value, json};
use tough::{IntoVec as _, RepositoryLoader, TargetName};
use url::Url;

use crate::command::Operator;
use crate::support::files;

/// Top of the tree.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What python-tuf finds of these targets from a root on, or the last line of what it says.
pub fn python_tuf(operator: &Operator, root: &str, names: &[&str]) -> Result<Value, String> {
    let output = Command::new(tree().join("out/python-tuf/bin/python3"))
        .arg(tree().join("cli/tests/python_tuf/client.py"))
        .args([operator.0.path("repository"), operator.0.path(root)])
        .args(names)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap().trim_end().lines().last().unwrap_or_default().to_owned())
}

/// Makes python-tuf, unless it is there.
pub fn fetch_python_tuf() {
    let status = Command::new(tree().join("scripts/fetch-python-tuf")).status().unwrap();
    assert!(status.success(), "scripts/fetch-python-tuf: {status}");
}

/// The same of tough, which remembers versions in `memory`.
pub fn tough(operator: &Operator, root: &str, memory: &Path, names: &[&str]) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(load(operator, root, memory, names)).map_err(|error| error.to_string())
}

async fn load(
    operator: &Operator,
    root: &str,
    memory: &Path,
    names: &[&str],
) -> Result<Value, Box<tough::error::Error>> {
    let base = |part: &str| Url::from_directory_path(operator.0.path(part)).unwrap();
    let root = fs::read(operator.0.path(root)).unwrap();
    let loader = RepositoryLoader::new(&root, base("repository/metadata"), base("repository/targets"));
    let repository = loader.datastore(memory).load().await?;
    let mut targets = Map::new();
    for name in names {
        let target = TargetName::new(*name)?;
        let digest = match repository.read_target(&target).await? {
            Some(bytes) => json!(Digest::of(&bytes.into_vec().await?)),
            None => Value::Null,
        };
        targets.insert((*name).to_owned(), digest);
    }
    let versions = json!({
        "root": repository.root().signed.version.get(),
        "timestamp": repository.timestamp().signed.version.get(),
        "snapshot": repository.snapshot().signed.version.get(),
        "targets": repository.targets().signed.version.get(),
    });
    Ok(json!({"targets": targets, "versions": versions}))
}

/// The file that the repository has under the name of a target.
pub fn target_path(operator: &Operator, name: &str) -> PathBuf {
    let directory = operator.0.path("repository/targets");
    let names = files(&directory);
    let file = names.iter().find(|file| file.ends_with(&format!(".{name}"))).unwrap();
    directory.join(file)
}

/// SHA-256 of that file.
pub fn target(operator: &Operator, name: &str) -> Value {
    json!(Digest::of(&fs::read(target_path(operator, name)).unwrap()))
}
