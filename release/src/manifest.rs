//! The manifest: what a release consists of. JSON, `format: 1`, unknown fields refused.
//!
//! [`Manifest::parse`] is the only way in from outside; what it lets through holds no contradiction.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::digest::Digest;
pub use crate::document::FORMAT;
use crate::document::{DocumentError, Kind};

mod check;
mod partition;
mod partition_type;
mod pcr11;
mod secure_boot;
#[cfg(test)]
mod tests;

pub use check::{check_name, check_version};
pub use partition::{DataPartition, GRAIN, MAX_PARTITION_BYTES, parse_partitions};
pub use partition_type::{ESP_TYPE, PartitionType, ROOT_TYPE, ROOT_VERITY_TYPE};
pub use pcr11::{MAX_SIGNATURES_BYTES, Pcr11, Predictions, SectionDigest};
pub use secure_boot::{Certificate, SecureBoot};

/// No manifest is larger; the installer stops reading there.
pub const MAX_BYTES: usize = 1 << 20;
const KIND: Kind = Kind { name: "manifest", max_bytes: MAX_BYTES };
/// How often systemd-boot may start a new UKI that does not say that it works.
pub const ATTEMPTS: u32 = 3;
/// No artifact is larger (16 TiB): keeps every product of sizes far from overflow.
pub const MAX_ARTIFACT_BYTES: u64 = 1 << 44;
/// No ESP is larger: the installer keeps the FAT of one that stays in memory, 4 bytes for 4096.
pub const MAX_ESP_BYTES: u64 = 16 << 30;
/// A UKI or boot loader has to fit an ESP beside others.
pub const MAX_BOOT_BYTES: u64 = 1 << 30;
/// Seconds that a watchdog may be left to the OS with: it has to get as far as feeding it, and chips count no longer than that.
pub const WATCHDOG: std::ops::RangeInclusive<u32> = 30..=600;
/// Label of the EFI system partition.
pub const ESP_LABEL: &str = "esp";
/// Label of a slot without a release: what systemd-sysupdate takes for free.
pub const EMPTY_LABEL: &str = "_empty";

/// One published version of an OS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this document: [`FORMAT`].
    pub format: u32,
    /// Name of the OS, as in file names and partition labels (`[a-z0-9][a-z0-9-]*`, at most 16 characters).
    pub name: String,
    /// Version (UAPI version format: `[a-zA-Z0-9.~^-]`, at most 12 characters, so that labels fit a GPT name).
    pub version: String,
    /// Architecture by the Discoverable Partitions Specification: `x86-64`.
    pub architecture: String,
    /// What is started, and by what.
    pub boot: Boot,
    /// The verity-protected file systems: in this format exactly one, with designator `root`.
    pub filesystems: Vec<FileSystem>,
    /// What the disk looks like.
    pub layout: Layout,
}

/// What the firmware starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The unified kernel image.
    pub uki: Artifact,
    /// The boot loader for `\EFI\BOOT\BOOTX64.EFI` and `\EFI\systemd\systemd-bootx64.efi`.
    pub loader: Artifact,
    /// The kernel command line in the UKI's `.cmdline` section, without trailing NUL or newline.
    pub cmdline: String,
    /// The most bytes of command line the kernel takes, from its boot header's `cmdline_size`
    /// (Documentation/arch/x86/boot.rst).
    pub cmdline_limit: u32,
    /// What the UKI makes of PCR 11. Absent where that depends on the machine's hardware, and in releases from before this
    /// was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr11: Option<Pcr11>,
    /// By whom it is signed for Secure Boot. Absent where `publish` was given no certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<SecureBoot>,
    /// Seconds after which a hardware watchdog resets the machine unless it is fed, 30 to 600: the OS takes over one that is
    /// armed, so it stays armed across kexec. Absent, it is stopped before the jump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u32>,
    /// Whether the OS cannot confirm that a kexec led to it, since it is none with systemd 257 or later: then none is marked, and
    /// one that fails is not remembered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

/// A file, padded with zeroes to whole blocks, and the hash tree over its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Bytes of the file itself, without padding.
    pub size: u64,
    /// SHA-256 of the file itself.
    pub sha256: Digest,
    /// Root hash of its tree.
    pub root_hash: Digest,
    /// Salt of its tree, hexadecimal.
    pub salt: Salt,
    /// The file, padded to whole blocks.
    pub data: Payload,
    /// The same in smaller frames, for machines that lack little of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine: Option<Payload>,
    /// Its hash tree, as `veritysetup format` writes it (superblock first).
    pub hash_tree: Payload,
}

/// A verity-protected file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// Which one.
    pub designator: Designator,
    /// dm-verity root hash.
    pub root_hash: Digest,
    /// dm-verity salt, hexadecimal.
    pub salt: Salt,
    /// The image.
    pub data: Payload,
    /// The same in smaller frames, for machines that lack little of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine: Option<Payload>,
    /// Its hash tree, superblock first.
    pub hash_tree: Payload,
    /// The UUID in that superblock: the one thing in a hash tree for which the root hash does not vouch.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub hash_tree_uuid: Uuid,
}

/// A file system's place, by the Discoverable Partitions Specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Designator {
    /// `/`
    Root,
}

/// The bytes of one artifact as published: seekable zstd at `payloads/<sha256>.zst` of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// SHA-256 of the compressed file, which is also its name.
    pub sha256: Digest,
    /// Bytes of the compressed file, seek table included.
    pub size: u64,
    /// Bytes after decompression: a multiple of 4096.
    pub content_size: u64,
    /// Bytes of the seek table (the skippable frame at the end, header and footer included).
    pub seek_table_size: u64,
    /// SHA-256 of the seek table.
    pub seek_table_sha256: Digest,
}

/// What the disk looks like: sizes in bytes, multiples of 1 MiB (in `partitions` of 4096).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// EFI system partition: 512 MiB to 16 GiB.
    pub esp_size: u64,
    /// Each slot's data partition.
    pub root_size: u64,
    /// Each slot's hash-tree partition.
    pub root_verity_size: u64,
    /// Slots: 2 is what systemd-sysupdate needs.
    pub slots: u32,
    /// What must stay free at the end for the OS's own partitions (/var); systemd-repart makes them.
    pub free_size: u64,
    /// Partitions behind the slots, in their order on the disk: at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<DataPartition>,
}

/// A verity salt: at most 256 bytes (the superblock's field).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salt(pub Vec<u8>);

impl Serialize for Salt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::digest::to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = crate::digest::from_hex(&text)
            .filter(|bytes| bytes.len() <= 256)
            .ok_or_else(|| serde::de::Error::custom("a salt is at most 256 bytes of lower-case hexadecimal"))?;
        Ok(Self(bytes))
    }
}

impl Manifest {
    /// Parses and checks a manifest: a value of this type holds no contradiction the installer would meet later.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let manifest: Self = KIND.parse(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The root file system.
    ///
    /// # Errors
    /// When there is none; [`Manifest::parse`] lets no such manifest through.
    pub fn root(&self) -> Result<&FileSystem, DocumentError> {
        match self.filesystems.as_slice() {
            [root] => Ok(root),
            other => KIND.refuse("filesystems", format!("has {} entries, but one `root` is expected", other.len())),
        }
    }

    /// All of its payloads, each with what it is.
    #[must_use]
    pub fn payloads(&self) -> Vec<(&'static str, &Payload)> {
        let Boot { uki, loader, .. } = &self.boot;
        let roots = self.filesystems.iter().flat_map(|root| {
            [
                ("root", Some(&root.data)),
                ("root in small frames", root.fine.as_ref()),
                ("root hash tree", Some(&root.hash_tree)),
            ]
        });
        let files = [
            ("UKI", Some(&uki.data)),
            ("UKI in small frames", uki.fine.as_ref()),
            ("UKI hash tree", Some(&uki.hash_tree)),
            ("boot loader", Some(&loader.data)),
            ("boot loader in small frames", loader.fine.as_ref()),
            ("boot loader hash tree", Some(&loader.hash_tree)),
        ];
        roots.chain(files).filter_map(|(what, payload)| Some((what, payload?))).collect()
    }

    /// File name of the UKI on the ESP, with all of its boot attempts left
    /// (<https://uapi-group.org/specifications/specs/boot_loader_specification/#boot-counting>).
    #[must_use]
    pub fn uki_name(&self) -> String {
        format!("{}_{}+{ATTEMPTS}.efi", self.name, self.version)
    }

    /// Label of the slot's data partition, as systemd-sysupdate matches it.
    #[must_use]
    pub fn root_label(&self) -> String {
        format!("{}_{}", self.name, self.version)
    }

    /// Label of the slot's hash-tree partition.
    #[must_use]
    pub fn root_verity_label(&self) -> String {
        format!("{}_{}_verity", self.name, self.version)
    }
}

/// The UUID of a data partition: the first 128 bits of its root hash
/// (Discoverable Partitions Specification). Textual byte order.
#[must_use]
pub fn data_uuid(root_hash: &Digest) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(root_hash.0.first_chunk::<16>().unwrap_or(&[0; 16]));
    Uuid::from_bytes(bytes)
}

/// The UUID of a hash-tree partition: the last 128 bits of its root hash.
#[must_use]
pub fn verity_uuid(root_hash: &Digest) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(root_hash.0.last_chunk::<16>().unwrap_or(&[0; 16]));
    Uuid::from_bytes(bytes)
}
