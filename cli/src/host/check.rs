//! `metalstrap host check`: whether a host config or a list of groups is one that machines take, before it is signed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_installer::failure::Code;
use metalstrap_release::allowed::Allowed;
use metalstrap_release::document::DocumentError;
use metalstrap_release::host::{Groups, Host};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{LookArgs, secure_boot};
use crate::output;

/// Checks host configs and lists of groups, before they are signed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap host check host.json groups.json
  metalstrap host check host.json --repository /srv/os --keys keys
It prints one line of JSON. What a machine would not take is named by file, line and reason, and the exit code is 1.")]
pub struct Args {
    /// Host configs, or lists of groups
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Directory of a repository: releases that host configs may not name there are refused too
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Directory of the keys, whose root is trusted with the repository
    #[arg(long, value_name = "DIR", requires = "repository", conflicts_with = "root")]
    keys: Option<PathBuf>,
    /// Root metadata that is trusted with the repository
    #[arg(long, value_name = "FILE", requires = "repository")]
    root: Option<PathBuf>,
}

impl Args {
    /// Prints what was checked.
    ///
    /// # Errors
    /// When a machine would refuse one of them.
    pub fn run(self) -> Result<()> {
        let allowed = self.allowed()?;
        let mut bad = 0_u32;
        for path in &self.files {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            if let Err(Reason { line, text }) = check(&text, allowed.as_ref()) {
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

    /// The list of the releases that host configs may name, if a repository is given and has one.
    fn allowed(&self) -> Result<Option<Allowed>> {
        let Some(repository) = self.repository.clone() else { return Ok(None) };
        ensure!(
            self.keys.is_some() || self.root.is_some(),
            "whom to believe about the repository? Say --keys or --root"
        );
        let look = LookArgs { repository, keys: self.keys.clone(), root: self.root.clone() };
        look.allowed(&look.load()?)
    }
}

/// Where a document is wrong, and why.
struct Reason {
    line: usize,
    text: String,
}

/// Checks one document. A list of groups is what has the field `groups`.
fn check(text: &str, allowed: Option<&Allowed>) -> Result<(), Reason> {
    let has_groups = serde_json::from_str::<Value>(text).is_ok_and(|value| value.get("groups").is_some());
    if !has_groups {
        let host = Host::parse(text.as_bytes()).map_err(|error| reason(text, &[], &error))?;
        check_keys(text, &["secure_boot_keys"], &host)?;
        return check_release(text, &["release"], allowed, "the host config", &host);
    }
    // Each group by itself, and the config in it, so that its own field is known.
    let mut names: Vec<Value> = Vec::new();
    while let Some(group) = find(text, &["groups", &names.len().to_string()]) {
        let place = names.len().to_string();
        let config = find(group, &["config"]).map_or(Ok(()), |config| Host::parse(config.as_bytes()).map(drop));
        if let Err(error @ DocumentError::Value { .. }) = config {
            return Err(reason(text, &["groups", &place, "config"], &error));
        }
        let alone = format!("{{\"format\": 1, \"groups\": [{group}]}}");
        if let Err(error @ DocumentError::Value { .. }) = Groups::parse(alone.as_bytes()) {
            return Err(reason(text, &["groups", &place], &error));
        }
        names.push(find(group, &["name"]).and_then(|name| serde_json::from_str(name).ok()).unwrap_or_default());
    }
    let list = Groups::parse(text.as_bytes()).map_err(|error| {
        let twice =
            names.iter().enumerate().position(|(place, name)| names.iter().take(place).any(|other| other == name));
        match (&error, twice) {
            (DocumentError::Value { field: "name", .. }, Some(place)) => {
                reason(text, &["groups", &place.to_string()], &error)
            }
            _ => reason(text, &[], &error),
        }
    })?;
    for (place, group) in list.groups.iter().enumerate() {
        let (place, name) = (place.to_string(), format!("the host config group {}", group.name));
        check_keys(text, &["groups", &place, "config", "secure_boot_keys"], &group.config)?;
        check_release(text, &["groups", &place, "config", "release"], allowed, &name, &group.config)?;
    }
    Ok(())
}

/// Whether firmware would take the keys at `path`.
fn check_keys(text: &str, path: &[&str], host: &Host) -> Result<(), Reason> {
    let Err(error) = secure_boot::check(host) else { return Ok(()) };
    Err(Reason { line: line_at(text, path.to_vec()), text: format!("[{}] {error:#}", Code::SecureBoot) })
}

/// Whether the release at `path` is one that may be named. The code is the one that a machine would show.
fn check_release(text: &str, path: &[&str], allowed: Option<&Allowed>, name: &str, host: &Host) -> Result<(), Reason> {
    let Some(Err(error)) = allowed.map(|allowed| allowed.check(name, &host.release)) else { return Ok(()) };
    let line = find(text, path).map_or(1, |part| line_of(text, part));
    Err(Reason { line, text: format!("[{}] {error}", Code::ReleaseNotAllowed) })
}

fn reason(text: &str, at: &[&str], error: &DocumentError) -> Reason {
    match error {
        DocumentError::Json { source, .. } => {
            let said = source.to_string();
            // The one refusal of a form that names a path, and no line.
            let line = match said.strip_suffix(" is a list, not an object") {
                Some(path) => line_at(text, path.split('.').collect()),
                None => source.line().max(1),
            };
            Reason { line, text: format!("{error}: {said}") }
        }
        DocumentError::Value { field, .. } => {
            let line = line_at(text, at.iter().copied().chain(field.split('.')).collect());
            Reason { line, text: error.to_string() }
        }
        DocumentError::TooLong { .. } => Reason { line: 1, text: error.to_string() },
    }
}

/// The line of the value at a path; where a field of it is missing, the line of what lacks it.
fn line_at(text: &str, mut path: Vec<&str>) -> usize {
    while !path.is_empty() && find(text, &path).is_none() {
        path.pop();
    }
    find(text, &path).map_or(1, |part| line_of(text, part))
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
        check(text, None).err().map(|reason| (reason.line, reason.text))
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
        let text = "the host config is not valid: disk is a list, not an object";
        assert_eq!(said(&host.replace("1\"}", "1\"},\n\"disk\": []")), Some((5, text.to_owned())));
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
        assert_eq!((line, found.as_str()), (6, "the list of host groups's name \"a\" is that of two groups"));
        let text = "the list of host groups's name \"a b\" is not 1 to 64 of a-z, A-Z, 0-9 and '._-'";
        assert_eq!(said(&list(&[group("a", ""), group("a b", "")])), Some((6, text.to_owned())));
        let text = "the list of host groups's match of b is empty: every machine would belong to it";
        let all = group("b", "").replace("\"serial\": \"7*\"", "");
        assert_eq!(said(&list(&[group("a", ""), all])), Some((7, text.to_owned())));
        let text = "the list of host groups's format is 2, but this installer reads 1";
        let newer = list(&[group("a", "")]).replacen("1,", "\n2,", 1);
        assert_eq!(said(&newer), Some((2, text.to_owned())));
    }

    #[test]
    fn a_release_that_may_not_be_named_is_refused_where_it_stands() {
        let allowed = Allowed { format: 1, releases: vec!["os_2".to_owned()] };
        let host = "{\n\"format\": 1,\n\"release\": {\"name\": \"os\",\n\"version\": \"1\"}\n}";
        let said = |text: &str| check(text, Some(&allowed)).err().map(|reason| (reason.line, reason.text));
        let text = |host: &str| {
            format!(
                "[release-not-allowed] the host config{host} names the release os 1, but allowed-releases.json, which the \
                 role targets has signed, allows only os_2"
            )
        };
        assert_eq!(said(host), Some((3, text(""))));
        assert_eq!(said(&host.replace("\"1\"}", "\"2\"}")), None);
        let group = |name: &str, host: &str| {
            format!("{{\"name\": \"{name}\", \"match\": {{\"serial\": \"7*\"}}, \"config\": {host}}}")
        };
        let good = host.replace("\"1\"}", "\"2\"}");
        let list =
            |second: &str| format!("{{\"format\": 1, \"groups\": [\n{},\n{}]}}", group("a", &good), group("b", second));
        assert_eq!(said(&list(&good)), None);
        assert_eq!(said(&list(host)), Some((9, text(" group b"))));
    }
}
