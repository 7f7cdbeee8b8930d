//! Types of partitions: the one table of their GUIDs and names.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::{Uuid, uuid};

/// EFI system partition (UEFI specification 2.10, table 5.7).
pub const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// Root file system for x86-64 (Discoverable Partitions Specification).
pub const ROOT_TYPE: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
/// Hash tree of the root file system for x86-64 (Discoverable Partitions Specification).
pub const ROOT_VERITY_TYPE: Uuid = uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");

/// Types that a partition behind the slots may be called by: the names of repart.d(5), the GUIDs of the Discoverable
/// Partitions Specification.
const NAMES: [(&str, Uuid); 8] = [
    ("home", uuid!("933ac7e1-2eb4-4f13-b844-0e14e2aef915")),
    ("linux-generic", uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4")),
    ("srv", uuid!("3b8f8425-20e0-4f3b-907f-1a25a76f98e8")),
    ("swap", uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")),
    ("tmp", uuid!("7ec6f557-3bc5-4aca-b293-16ef5df639d1")),
    ("user-home", uuid!("773f91ef-66d4-49b5-bd83-d683bf40ad16")),
    ("var", uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d")),
    ("xbootldr", uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172")),
];

/// Type of a partition behind the slots. Its text form is one of the names, or a GUID where there is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionType(Uuid);

impl PartitionType {
    /// The type with this name, or with this GUID in its usual form (8-4-4-4-12 hexadecimal digits).
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, guid)| *guid);
        let guid =
            || Uuid::try_parse(text).ok().filter(|guid| guid.hyphenated().to_string().eq_ignore_ascii_case(text));
        named.or_else(guid).map(Self)
    }

    /// Its GUID.
    #[must_use]
    pub fn guid(self) -> Uuid {
        self.0
    }

    /// Whether only partitions of the installer's own have this type, or none has it: in a table, zeroes are no entry.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.is_nil() || [ESP_TYPE, ROOT_TYPE, ROOT_VERITY_TYPE].contains(&self.0)
    }

    /// The names, as people list them.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, guid)| *guid == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for PartitionType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartitionType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let shown: String = text.chars().take(40).collect();
        let names = Self::names().join(", ");
        Self::from_text(&text)
            .ok_or_else(|| D::Error::custom(format!("{shown:?} is neither a GUID nor one of {names}")))
    }
}
