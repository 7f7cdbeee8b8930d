//! Which intents have happened to which disks, as a machine remembers it beside what the disks know themselves: a wipe that is
//! cut takes a disk's own knowledge, and so does a person who lays it out anew.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::boot_files::with_intent;

/// The memory is never longer: firmware has little room for all variables together.
pub const MOST_BYTES: usize = 3072;

/// The intents of a machine's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intents {
    format: u32,
    /// The disk that something has happened to last comes last.
    disks: Vec<Happened>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Happened {
    /// [`lasting_uuid`](crate::plan::lasting_uuid) of the disk.
    disk: Uuid,
    /// The newest last.
    intents: Vec<String>,
}

impl Default for Intents {
    fn default() -> Self {
        Self { format: 1, disks: Vec::new() }
    }
}

impl Intents {
    /// Reads what [`Intents::to_bytes`] has made.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let read: Self = serde_json::from_slice(bytes).context("the memory of intents is not valid")?;
        ensure!(read.format == 1, "the memory of intents has format {}, not 1", read.format);
        Ok(read)
    }

    /// JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of text and numbers always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What has happened to a disk, the newest last.
    #[must_use]
    pub fn of(&self, disk: Uuid) -> &[String] {
        let found = self.disks.iter().find(|happened| happened.disk == disk);
        found.map(|happened| happened.intents.as_slice()).unwrap_or_default()
    }

    /// The same with `intents` known of `disk`. What there is no room for is forgotten: the oldest intent of the disk that
    /// was heard of least lately.
    #[must_use]
    pub fn with(&self, disk: Uuid, intents: &[String]) -> Self {
        let known = self.of(disk).to_vec();
        let intents = intents
            .iter()
            .fold(known, |known, intent| if known.contains(intent) { known } else { with_intent(&known, intent) });
        let mut all = self.clone();
        all.disks.retain(|happened| happened.disk != disk);
        all.disks.push(Happened { disk, intents });
        while all.to_bytes().len() > MOST_BYTES {
            all.forget();
        }
        all
    }

    fn forget(&mut self) {
        let oldest = self.disks.first_mut().map(|happened| {
            happened.intents.drain(..1.min(happened.intents.len()));
            happened.intents.is_empty()
        });
        if oldest == Some(true) {
            self.disks.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn each_disk_has_its_own_and_the_newest_last() {
        let [one, other] = [1, 2].map(Uuid::from_u128);
        let known = Intents::default().with(one, &words(&["a"])).with(other, &words(&["x"]));
        let known = known.with(one, &words(&["a", "b"]));
        assert_eq!((known.of(one), known.of(other)), (&*words(&["a", "b"]), &*words(&["x"])));
        assert_eq!(known.of(Uuid::nil()), [""; 0]);
        let json = r#"{"format":1,"disks":[{"disk":"00000000-0000-0000-0000-000000000002","intents":["x"]},{"disk":"00000000-0000-0000-0000-000000000001","intents":["a","b"]}]}"#;
        assert_eq!(String::from_utf8(known.to_bytes()).unwrap(), json);
        assert_eq!(Intents::parse(json.as_bytes()).unwrap(), known);
        assert_eq!(known.with(one, &words(&["b"])), known, "what is known changes nothing");
    }

    #[test]
    fn it_has_an_end_and_forgets_the_oldest() {
        let mut known = Intents::default();
        for disk in 0..40 {
            known = known.with(Uuid::from_u128(disk), &words(&["y".repeat(64).as_str(), "z"]));
        }
        assert!(known.to_bytes().len() <= MOST_BYTES);
        assert_eq!(known.of(Uuid::nil()), [""; 0]);
        assert_eq!(known.of(Uuid::from_u128(39)), words(&["y".repeat(64).as_str(), "z"]));
        // One disk alone, whose intents are many and long.
        let many: Vec<String> = (10..60).map(|number| format!("{number}{}", "w".repeat(62))).collect();
        let known = Intents::default().with(Uuid::nil(), &many);
        assert!(known.to_bytes().len() <= MOST_BYTES && known.of(Uuid::nil()).last() == many.last());
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let refusal = |text: &str| format!("{:#}", Intents::parse(text.as_bytes()).unwrap_err());
        assert!(refusal("{}").starts_with("the memory of intents is not valid: missing field `format`"));
        assert_eq!(refusal(r#"{"format":2,"disks":[]}"#), "the memory of intents has format 2, not 1");
    }
}
