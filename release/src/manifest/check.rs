//! What must hold in a manifest beyond its shape.

use super::{
    Artifact, FileSystem, KIND, MAX_ARTIFACT_BYTES, MAX_BOOT_BYTES, MAX_ESP_BYTES, Manifest, Payload, Pcr11,
    SecureBoot, WATCHDOG, partition,
};
use crate::document::DocumentError;
use crate::seek_table;
use crate::verity::{BLOCK, Geometry};

const MIB: u64 = 1 << 20;
/// Bytes of a seek table without any entry.
const SEEK_TABLE_FRAME: u64 = 17;
/// Bytes of a seek table's entry.
const SEEK_TABLE_ENTRY: u64 = 8;
/// zstd's own overhead for a frame of a single block, rounded up.
const FRAME_OVERHEAD: u64 = 1024 + BLOCK / 128;

impl Manifest {
    /// Checks everything that the shape of the document does not.
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        KIND.check_format(self.format)?;
        check_name(&self.name)?;
        check_version(&self.version)?;
        if self.architecture != "x86-64" {
            return KIND
                .refuse("architecture", format!("is {:?}, but this installer is for x86-64", self.architecture));
        }
        let root = self.root()?;
        check_tree("filesystems.root", &root.data, &root.hash_tree, MAX_ARTIFACT_BYTES)?;
        check_fine("filesystems.root", &root.data, root.fine.as_ref())?;
        check_artifact("boot.uki", &self.boot.uki)?;
        check_artifact("boot.loader", &self.boot.loader)?;
        self.boot.pcr11.as_ref().map_or(Ok(()), Pcr11::check)?;
        self.boot.secure_boot.as_ref().map_or(Ok(()), SecureBoot::check)?;
        if let Some(seconds) = self.boot.watchdog.filter(|seconds| !WATCHDOG.contains(seconds)) {
            let (least, most) = (WATCHDOG.start(), WATCHDOG.end());
            return KIND.refuse("boot.watchdog", format!("is {seconds}, not {least} to {most}"));
        }
        self.check_cmdline(root)?;
        self.check_layout(root)
    }

    fn check_cmdline(&self, root: &FileSystem) -> Result<(), DocumentError> {
        let cmdline = &self.boot.cmdline;
        let field = "boot.cmdline";
        if !cmdline.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return KIND.refuse(field, "holds other characters than printable ASCII");
        }
        if cmdline.len() as u64 > u64::from(self.boot.cmdline_limit) {
            let limit = self.boot.cmdline_limit;
            return KIND.refuse(field, format!("has {} bytes, but the kernel takes {limit}", cmdline.len()));
        }
        // systemd takes the last one, so a second one would start another root than the one that is installed.
        let hashes: Vec<_> = cmdline.split(' ').filter_map(|word| word.strip_prefix("roothash=")).collect();
        if hashes != [root.root_hash.to_string()] {
            return KIND.refuse(field, format!("does not hold roothash={} and no other", root.root_hash));
        }
        Ok(())
    }

    fn check_layout(&self, root: &FileSystem) -> Result<(), DocumentError> {
        let layout = &self.layout;
        for (field, size, needed, most) in [
            ("layout.esp_size", layout.esp_size, 512 * MIB, MAX_ESP_BYTES),
            ("layout.root_size", layout.root_size, root.data.content_size, MAX_ARTIFACT_BYTES),
            ("layout.root_verity_size", layout.root_verity_size, root.hash_tree.content_size, MAX_ARTIFACT_BYTES),
            ("layout.free_size", layout.free_size, 0, MAX_ARTIFACT_BYTES),
        ] {
            if !size.is_multiple_of(MIB) || size > most || size < needed {
                let problem = format!("is {size}, not a multiple of 1 MiB from {needed} to {most}");
                return KIND.refuse(field, problem);
            }
        }
        if !(1..=8).contains(&layout.slots) {
            return KIND.refuse("layout.slots", format!("is {}, not 1 to 8", layout.slots));
        }
        let taken = [self.root_label(), self.root_verity_label()];
        partition::check(KIND, "layout.partitions", &layout.partitions, &taken)
    }
}

/// Checks the name of an OS.
///
/// # Errors
/// Says which names there are.
pub fn check_name(name: &str) -> Result<(), DocumentError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 16 || !name.chars().all(allowed) || name.starts_with('-') {
        return KIND.refuse("name", format!("{} is not 1 to 16 of a-z, 0-9 and '-'", shown(name)));
    }
    Ok(())
}

/// Checks a version.
///
/// # Errors
/// Says which versions there are.
pub fn check_version(version: &str) -> Result<(), DocumentError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".~^-".contains(c);
    if version.is_empty() || version.len() > 12 || !version.chars().all(allowed) {
        return KIND.refuse("version", format!("{} is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'", shown(version)));
    }
    Ok(())
}

/// A text from outside, quoted, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

fn check_artifact(field: &'static str, artifact: &Artifact) -> Result<(), DocumentError> {
    if artifact.size == 0 || artifact.size > MAX_BOOT_BYTES {
        return KIND.refuse(field, format!("has a size of {}, not 1 to {MAX_BOOT_BYTES}", artifact.size));
    }
    if artifact.size.next_multiple_of(BLOCK) != artifact.data.content_size {
        let content_size = artifact.data.content_size;
        return KIND.refuse(field, format!("has a size of {} and a content_size of {content_size}", artifact.size));
    }
    check_tree(field, &artifact.data, &artifact.hash_tree, MAX_BOOT_BYTES)?;
    check_fine(field, &artifact.data, artifact.fine.as_ref())
}

/// The same content in smaller frames has the same length.
fn check_fine(field: &'static str, data: &Payload, fine: Option<&Payload>) -> Result<(), DocumentError> {
    let Some(fine) = fine else { return Ok(()) };
    if fine.content_size != data.content_size {
        let (content_size, other) = (fine.content_size, data.content_size);
        return KIND.refuse(field, format!("has {content_size} bytes in smaller frames, but {other} in larger ones"));
    }
    check_payload(field, fine)
}

fn check_tree(field: &'static str, data: &Payload, tree: &Payload, most: u64) -> Result<(), DocumentError> {
    if data.content_size == 0 || !data.content_size.is_multiple_of(BLOCK) || data.content_size > most {
        return KIND
            .refuse(field, format!("has a content_size of {}, not whole blocks up to {most}", data.content_size));
    }
    let blocks = data.content_size / BLOCK;
    let needed = Geometry::new(blocks).map(|geometry| geometry.total_blocks() * BLOCK);
    if needed != Some(tree.content_size) {
        return KIND.refuse(field, format!("has a hash tree of {} bytes for {blocks} blocks", tree.content_size));
    }
    check_payload(field, data)?;
    check_payload(field, tree)
}

/// Checks sizes that the installer allocates or reads by. The content size is within bounds already.
fn check_payload(field: &'static str, payload: &Payload) -> Result<(), DocumentError> {
    let blocks = payload.content_size / BLOCK;
    // A frame holds at least one block, and there is at least one frame.
    let least = SEEK_TABLE_FRAME + SEEK_TABLE_ENTRY;
    let most = (SEEK_TABLE_FRAME + SEEK_TABLE_ENTRY * blocks).min(seek_table::MAX_BYTES);
    if !(least..=most).contains(&payload.seek_table_size) {
        let found = payload.seek_table_size;
        return KIND.refuse(field, format!("has a seek table of {found} bytes, not {least} to {most}"));
    }
    let stored = payload.size.saturating_sub(payload.seek_table_size);
    if stored == 0 || stored > payload.content_size + blocks * FRAME_OVERHEAD {
        let content_size = payload.content_size;
        return KIND.refuse(field, format!("has a payload of {} bytes for {content_size} of content", payload.size));
    }
    Ok(())
}
