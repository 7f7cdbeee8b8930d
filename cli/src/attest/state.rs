//! The file that holds an exchange between challenge and answer. It is used once.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::attest::{Evidence, Pending};

use crate::files;

/// What is behind the name of one that was used.
const USED: &str = ".used";
/// It can answer its own challenge.
const MODE: u32 = 0o600;

fn used(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(USED);
    name.into()
}

/// Keeps an exchange.
///
/// # Errors
/// There is a file of that name, or it cannot be written.
pub fn keep(path: &Path, pending: &Pending) -> Result<()> {
    ensure!(!used(path).exists(), "the state {} was used before: take another name", path.display());
    let bytes = serde_json::to_vec_pretty(pending).context("encoding the state")?;
    files::create(path, &bytes, MODE).context("keeping the state")
}

/// Takes the exchange that `evidence` answers, which nobody can take again: of two who try at once, one does.
///
/// # Errors
/// It was used before; cannot be read; or is another one, which is not used up by that.
pub fn take(path: &Path, evidence: &Evidence) -> Result<Pending> {
    let used = used(path);
    let again = || format!("the state {} was used before: a challenge is answered once", path.display());
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound && used.exists() => bail!(again()),
        Err(error) => return Err(error).with_context(|| format!("reading the state {}", path.display())),
    };
    let pending = Pending::parse(&bytes).with_context(|| format!("checking the state {}", path.display()))?;
    let (found, asked) = (&evidence.id, &pending.challenge.id);
    ensure!(
        found == asked,
        "the evidence answers the challenge {found:?}, but the state {} is of {asked:?}",
        path.display()
    );
    match fs::rename(path, &used) {
        Ok(()) => Ok(pending),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(again()),
        Err(error) => Err(error).with_context(|| format!("marking the state {} as used", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, introduction};
    use super::*;

    #[test]
    fn it_is_taken_once() {
        let at = tempfile::tempdir().unwrap();
        let (path, pending) = (at.path().join("state.json"), Pending::begin(introduction(), vec![13]).unwrap());
        keep(&path, &pending).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let evidence = answer(&pending.challenge);
        let other = Evidence { id: "other".to_owned(), ..evidence.clone() };
        let text = format!(
            "the evidence answers the challenge \"other\", but the state {} is of {:?}",
            path.display(),
            pending.challenge.id
        );
        assert_eq!(take(&path, &other).unwrap_err().to_string(), text);
        assert_eq!(take(&path, &evidence).unwrap(), pending);
        let text = format!("the state {} was used before: a challenge is answered once", path.display());
        assert_eq!(take(&path, &evidence).unwrap_err().to_string(), text);
        let text = format!("the state {} was used before: take another name", path.display());
        assert_eq!(keep(&path, &pending).unwrap_err().to_string(), text);
        let text = take(&at.path().join("none"), &evidence).unwrap_err().to_string();
        assert_eq!(text, format!("reading the state {}", at.path().join("none").display()));
    }
}
