//! The credentials on an ESP. All of them change by one sector, so that an OS that is started at any point finds those of one
//! host config: the old ones or the new ones. Beside them lies a list of those that are ours, by which one that the next host
//! config lacks is told from what the OS or somebody else has put there, and stays. What a verifier has given for an attestation
//! has a list of its own: it comes later, and stays where the next verifier cannot be reached.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow};
use metalstrap_release::digest::Digest;

use super::there::{apply, coded, lay_out};
use crate::credentials::{DIRECTORY, Sealed};
use crate::disk::Region;
use crate::failure::{Code, WithCode as _};
use crate::fat::{Directory, File, Listed, ReadAt, Unnamed, Volume};

/// The list: a name on a line. systemd-stub looks at files that end with `.cred` and at no others.
pub(super) const LIST: &str = "metalstrap";
/// That of what a verifier has given.
pub(super) const ATTESTED: &str = "metalstrap-attested";
/// It is never longer.
const MOST_LIST_BYTES: u32 = 64 << 10;
/// Nor is a file of a credential: 64 KiB sealed, in base64.
const MOST_FILE_BYTES: u32 = 128 << 10;

/// The files with their names in [`DIRECTORY`]; none where there are no credentials.
pub(super) fn files(credentials: &[Sealed]) -> Vec<(String, Vec<u8>)> {
    listed(LIST, credentials)
}

/// The same, with this list.
fn listed(by: &str, credentials: &[Sealed]) -> Vec<(String, Vec<u8>)> {
    if credentials.is_empty() {
        return Vec::new();
    }
    let mut list = String::new();
    for one in credentials {
        let _ = writeln!(list, "{}", one.name);
    }
    let files = credentials.iter().map(|one| (one.file(), one.bytes.clone()));
    files.chain([(by.to_owned(), list.into_bytes())]).collect()
}

/// The same as they are laid out on a fresh file system.
///
/// # Errors
/// None that occur: a length fits 64 bits.
pub(super) fn placed(credentials: &[Sealed]) -> Result<Vec<File>> {
    let file = |(name, bytes): (String, Vec<u8>)| -> Result<File> {
        Ok(File { path: format!("{DIRECTORY}/{name}"), size: u64::try_from(bytes.len())? })
    };
    files(credentials).into_iter().map(file).collect()
}

/// Bytes that they take in whole clusters of `cluster` bytes, beside those that are there; with the directory, in which a name
/// takes at most 21 entries of 32 bytes.
pub(super) fn room(credentials: &[Sealed], cluster: u64) -> u64 {
    let files = files(credentials);
    let directory = u64::try_from(files.len()).unwrap_or(u64::MAX).saturating_mul(21 * 32).saturating_add(cluster);
    let sizes = files.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let whole = sizes.chain([directory]).map(|size| size.max(1).next_multiple_of(cluster));
    if files.is_empty() { 0 } else { whole.fold(0, u64::saturating_add) }
}

/// Those of the files `names` that are there and can be read.
pub(super) fn found(volume: &Volume, read: ReadAt<'_>, names: Vec<String>) -> BTreeMap<String, Vec<u8>> {
    let file = |name: String| {
        let file = volume.read_file(&format!("{DIRECTORY}/{name}"), MOST_FILE_BYTES, read);
        Some((name, file.ok()??))
    };
    names.into_iter().filter_map(file).collect()
}

/// Whether `there` has all their files, as they should be.
pub(super) fn are_among(credentials: &[Sealed], there: &BTreeMap<String, Digest>) -> bool {
    files(credentials).iter().all(|(name, bytes)| there.get(name) == Some(&Digest::of(bytes)))
}

/// Whether they are all there as they should be, and none beside them that are on this list.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn are_there(volume: &Volume, read: ReadAt<'_>, by: &str, credentials: &[Sealed]) -> Result<bool> {
    let Some(directory) = coded(volume.directory(DIRECTORY, read))? else { return Ok(credentials.is_empty()) };
    let wanted = listed(by, credentials);
    // What cannot be read is not what it should be.
    let content = |name: &str, most: u32| {
        let file = volume.read_file(&format!("{DIRECTORY}/{name}"), most, read);
        file.ok().flatten()
    };
    if wanted.is_empty() {
        return Ok(directory.find(by).is_none());
    }
    Ok(wanted.iter().all(|(name, bytes)| {
        let size = u32::try_from(bytes.len()).unwrap_or_default();
        content(name, size).as_ref() == Some(bytes)
    }))
}

/// Makes the ESP hold them, and of what was on this list before nothing else. Nothing is written where that is so already.
///
/// # Errors
/// [`Code::Esp`] if there is no room, [`Code::DiskIo`].
pub(super) fn install(
    volume: &mut Volume,
    read: ReadAt<'_>,
    region: &Region,
    by: &str,
    credentials: &[Sealed],
) -> Result<()> {
    if are_there(volume, read, by, credentials)? {
        return Ok(());
    }
    let (parent, _) = DIRECTORY.split_once('/').unwrap_or((DIRECTORY, ""));
    if coded(volume.directory(parent, read))?.is_none() {
        apply(region, coded(volume.make_directory(parent, read))?)?;
    }
    let old = coded(volume.directory(DIRECTORY, read))?;
    let before = old.as_ref().map(|old| ours(volume, read, by, old)).unwrap_or_default();
    let mut unnamed = Vec::new();
    for (name, bytes) in listed(by, credentials) {
        let cluster = write(volume, read, region, &bytes).with_context(|| format!("writing {DIRECTORY}/{name}"))?;
        unnamed.push(Unnamed { name, cluster, size: u32::try_from(bytes.len())? });
    }
    let is_new = |name: &str| unnamed.iter().any(|file| file.name.eq_ignore_ascii_case(name));
    let is_ours = |name: &str| name.eq_ignore_ascii_case(by) || before.iter().any(|old| old.eq_ignore_ascii_case(name));
    let stays = |listed: &Listed| listed.is_directory || !(is_new(&listed.name) || is_ours(&listed.name));
    let steps =
        coded(volume.refill(DIRECTORY, &unnamed, stays, read)).with_context(|| format!("naming {DIRECTORY}"))?;
    apply(region, steps)
}

/// What a verifier has given and is there, in the order of the files. One that the host config has now is none of them.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn attested(volume: &Volume, read: ReadAt<'_>) -> Result<Vec<Sealed>> {
    let Some(directory) = coded(volume.directory(DIRECTORY, read))? else { return Ok(Vec::new()) };
    let files = found(volume, read, ours(volume, read, ATTESTED, &directory));
    let sealed = |(file, bytes): (String, Vec<u8>)| {
        let name = file.strip_suffix(".cred").unwrap_or(&file).to_owned();
        Sealed { name, size: None, bytes }
    };
    Ok(files.into_iter().map(sealed).collect())
}

/// The files of which only this list says that they are ours: one that has come onto the other list meanwhile is that one's.
fn ours(volume: &Volume, read: ReadAt<'_>, by: &str, directory: &Directory) -> Vec<String> {
    let others = on_list(volume, read, if by == LIST { ATTESTED } else { LIST }, directory);
    let mut names = on_list(volume, read, by, directory);
    names.retain(|name| !others.iter().any(|other| other.eq_ignore_ascii_case(name)));
    names
}

/// The files that the list has; none where there is no list that can be read.
fn on_list(volume: &Volume, read: ReadAt<'_>, by: &str, directory: &Directory) -> Vec<String> {
    if directory.find(by).is_none() {
        return Vec::new();
    }
    let list = volume.read_file(&format!("{DIRECTORY}/{by}"), MOST_LIST_BYTES, read).ok().flatten();
    let list = list.unwrap_or_default();
    String::from_utf8_lossy(&list).lines().map(|name| format!("{name}.cred")).collect()
}

/// Writes a file that has no name yet, and reads it back: its first cluster.
fn write(volume: &mut Volume, read: ReadAt<'_>, region: &Region, bytes: &[u8]) -> Result<u32> {
    let (cluster, writes) = lay_out(volume, bytes.to_vec())?;
    let what = || "writing the EFI system partition".to_owned();
    for write in writes {
        region.write_at(write.offset, &write.bytes).code(Code::DiskIo, what)?;
        let mut found = vec![0; write.bytes.len()];
        let reading = || "reading the EFI system partition back".to_owned();
        read(write.offset, &mut found).code(Code::DiskIo, reading)?;
        if found != write.bytes {
            return Err(anyhow!("it holds something else than was written to it")).code(Code::DiskIo, reading);
        }
    }
    Ok(cluster)
}
