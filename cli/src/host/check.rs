//! `metalstrap host check`: whether a host config or a list of groups is one that machines take, before it is signed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use metalstrap_release::document::DocumentError;
use metalstrap_release::host::{Groups, Host};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::output;

/// Checks host configs and lists of groups, before they are signed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host check host.json groups.json
It prints one line of JSON. What a machine would not take is named by file, line and reason, and the exit code is 1.")]
pub struct Args {
    /// Host configs, or lists of groups
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl Args {
    /// Prints what was checked.
    ///
    /// # Errors
    /// When a machine would refuse one of them.
    pub fn run(self) -> Result<()> {
        let mut bad = 0_u32;
        for path in &self.files {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            if let Err(Reason { line, text }) = check(&text) {
                eprintln!("{}:{line}: {text}", path.display());
                bad = bad.saturating_add(1);
            }
        }
        if bad > 0 {
            bail!("{bad} of {} would be refused by every machine", self.files.len());
        }
        output::print(
            &json!({"checked": self.files.iter().map(|path| Path::display(path).to_string()).collect::<Vec<_>>()}),
        )
    }
}

/// Where a document is wrong, and why.
struct Reason {
    line: usize,
    text: String,
}

/// Checks one document. A list of groups is what has the field `groups`.
fn check(text: &str) -> Result<(), Reason> {
    let has_groups = serde_json::from_str::<Value>(text).is_ok_and(|value| value.get("groups").is_some());
    if !has_groups {
        return Host::parse(text.as_bytes()).map(drop).map_err(|error| reason(text, &[], &error));
    }
    // Each group's config by itself, so that its own field is known.
    let mut place = 0_usize;
    while let Some(config) = find(text, &["groups", &place.to_string(), "config"]) {
        if let Err(error @ DocumentError::Value { .. }) = Host::parse(config.as_bytes()) {
            return Err(reason(text, &["groups", &place.to_string(), "config"], &error));
        }
        place = place.saturating_add(1);
    }
    Groups::parse(text.as_bytes()).map(drop).map_err(|error| reason(text, &[], &error))
}

fn reason(text: &str, at: &[&str], error: &DocumentError) -> Reason {
    match error {
        DocumentError::Json { source, .. } => Reason { line: source.line().max(1), text: format!("{error}: {source}") },
        DocumentError::Value { field, .. } => {
            let mut path: Vec<&str> = at.iter().copied().chain(field.split('.')).collect();
            // A field that is missing: the line of what lacks it.
            while !path.is_empty() && find(text, &path).is_none() {
                path.pop();
            }
            Reason { line: find(text, &path).map_or(1, |part| line_of(text, part)), text: error.to_string() }
        }
        DocumentError::TooLong { .. } => Reason { line: 1, text: error.to_string() },
    }
}

/// The text of the value at a path of names and indices.
fn find<'a>(text: &'a str, path: &[&str]) -> Option<&'a str> {
    let Some((name, rest)) = path.split_first() else { return Some(text) };
    let part = match name.parse::<usize>() {
        Ok(index) => *serde_json::from_str::<Vec<&'a RawValue>>(text).ok()?.get(index)?,
        Err(_) => *serde_json::from_str::<HashMap<String, &'a RawValue>>(text).ok()?.get(*name)?,
    };
    find(part.get(), rest)
}

/// The line on which a part of the text begins.
fn line_of(text: &str, part: &str) -> usize {
    let offset = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    text.get(..offset).map_or(0, |before| before.matches('\n').count()).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<(usize, String)> {
        check(text).err().map(|reason| (reason.line, reason.text))
    }

    #[test]
    fn the_line_and_the_reason_are_named() {
        let host = "{\n\"format\": 1,\n\"release\": {\"name\": \"os\",\n\"version\": \"1\"}\n}";
        assert_eq!(said(host), None);
        let text = "the host config's erase is set, but existing is not \"wipe\"";
        assert_eq!(said(&host.replace("1\"}", "1\"},\n\"erase\": \"zeroes\"")), Some((5, text.to_owned())));
        let text = "the host config's release.version \"a b\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'";
        assert_eq!(said(&host.replace("\"1\"", "\"a b\"")), Some((4, text.to_owned())));
        let text = "the host config's credentials hold \"motd\", which has the variable \"rack\" in line 2, which is none of \
                    serial, uuid, mac, vendor, product";
        let credentials = "1,\n\n\"credentials\": {\"motd\": {\"text\": \"in\\n${rack}\"}},";
        assert_eq!(said(&host.replace("1,", credentials)), Some((4, text.to_owned())));
        let text = "the host config's intent is missing: `wipe` happens once for each intent";
        assert_eq!(said(&host.replace("1,", "1, \"existing\": \"wipe\",")), Some((1, text.to_owned())));
        let (line, found) = said(&host.replace("\"release\"", "\"relaese\"")).unwrap();
        assert_eq!(line, 3);
        assert!(
            found.starts_with("the host config is not valid: unknown field `relaese`, expected one of "),
            "{found}"
        );
    }

    #[test]
    fn a_group_is_checked_where_it_stands() {
        let group = |name: &str, more: &str| {
            format!(
                "{{\"name\": \"{name}\",\n\"match\": {{\"serial\": \"7*\"}},\n\"config\": {{\"format\": 1,\n\
                 \"release\": {{\"name\": \"os\", \"version\": \"1\"}}{more}}}}}"
            )
        };
        let list = |groups: &[String]| format!("{{\"format\": 1, \"groups\": [\n{}]}}", groups.join(",\n"));
        assert_eq!(said(&list(&[group("a", ""), group("b", "")])), None);
        let bad = list(&[group("a", ""), group("b", ",\n\"erase\": \"zeroes\"")]);
        let text = "the host config's erase is set, but existing is not \"wipe\"";
        assert_eq!(said(&bad), Some((10, text.to_owned())));
        let (line, found) = said(&list(&[group("a", ""), group("a", "")])).unwrap();
        assert_eq!((line, found.as_str()), (1, "the list of host groups's name \"a\" is that of two groups"));
    }
}
