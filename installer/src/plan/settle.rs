//! What becomes of what is on the disk, by the host config's policy.
//!
//! A destructive intent happens once. What has happened is known from three places: the GUID of the partition table, which comes
//! from the disk's identity and the intent, so that it holds from the moment of the new table on; a file on the ESP, which
//! knows the intents before as well; and the machine's own memory, which a wipe that is cut does not take. Where a disk has bad
//! sectors, a wipe goes by what the others say of that; where they do not say enough, nothing is wiped.

use std::borrow::Cow;

use anyhow::Result;
use metalstrap_release::host::{Erase, Existing, Host, Mode};
use metalstrap_release::manifest::Manifest;
use uuid::Uuid;

use super::reuse::{self, Names, Ours};
use super::{Area, Becomes, FIRST_SLOT, Partition, Plan, PlanDisk, Release, layout};
use crate::boot_files;
use crate::credentials::{self, Sealed};
use crate::disk::Identity;
use crate::failure::{Code, coded};
use crate::inventory::Contents;

/// What becomes of a disk.
#[derive(Debug)]
struct Settled<'a> {
    pub existing: Becomes,
    /// The slot that gets the release.
    pub target: char,
    /// What is there, if it stays.
    pub ours: Option<Ours<'a>>,
    /// Whether the slot has the root hash already.
    pub holds: bool,
    /// The partitions as they will be.
    pub partitions: Vec<Partition>,
    /// What stays free behind them.
    pub free: Area,
}

impl Plan {
    /// Finds `manifest`'s release on `disk` for who writes nothing: whatever is on the ESP, and where some sectors cannot be read.
    ///
    /// # Errors
    /// As [`Plan::new`], but for the ESP, and for sectors that say nothing of where the release is.
    pub fn to_look(disk: &PlanDisk, manifest: &Manifest, host: &Host) -> Result<Self> {
        let disk = as_far_as_read(disk);
        Ok(Self::settled(&disk, manifest, host, &credentials::expected(host)?)?.0)
    }

    /// What becomes of the disk, without what is done for it, and what of it is ours.
    pub(super) fn settled<'a>(
        disk: &'a PlanDisk,
        manifest: &Manifest,
        host: &Host,
        credentials: &[Sealed],
    ) -> Result<(Self, Option<Ours<'a>>)> {
        if !matches!(disk.sector_size, 512 | 4096) {
            let text = format!("disk {} has sectors of {} bytes, not 512 or 4096", disk.name, disk.sector_size);
            return Err(coded(Code::DiskIo, text));
        }
        let Settled { existing, target, ours, holds, partitions, free } = self::existing(disk, manifest, host)?;
        // A repair mends what is there, and leaves to others what is started first.
        let ours_to_name = ours.filter(|_| host.mode == Mode::Install);
        let names = ours_to_name.map(|ours| ours.names(&partitions, target, manifest, holds)).unwrap_or_default();
        check_names(disk, host, &names)?;
        let fallback = ours.and_then(|ours| ours.fallback(&partitions, target, &names.removed));
        let mut plan = Self {
            format: 1,
            release: Release {
                name: manifest.name.clone(),
                version: manifest.version.clone(),
                root_hash: manifest.root()?.root_hash,
            },
            disk: disk.identity.clone(),
            sector_size: disk.sector_size,
            disk_guid: ours.map_or_else(|| disk_guid(disk, host), |ours| ours.table.disk_guid),
            erase: if existing.stays() { Erase::None } else { host.erase },
            existing,
            target,
            fallback,
            names,
            intents: intents(disk, host),
            credentials: credentials.iter().map(Sealed::listed).collect(),
            partitions,
            kept: Vec::new(),
            free,
            wipes: Vec::new(),
            discards: Vec::new(),
            seeds: Vec::new(),
            writes: Vec::new(),
            protects: Vec::new(),
            leftovers: Vec::new(),
            handoff: None,
        };
        plan.check_mode(disk, host.mode)?;
        if let Some(ours) = ours {
            plan.keep(ours.table);
        }
        Ok((plan, ours))
    }

    /// Whether the GUID of the table says that `intent` has happened.
    #[must_use]
    pub fn guid_knows(&self, intent: &str) -> bool {
        self.disk_guid == guid(&self.disk, Some(intent))
    }

    /// Whether the disk must hold the release already, as the host config's mode says.
    ///
    /// # Errors
    /// [`Code::NotInstalled`] where it does not.
    fn check_mode(&self, disk: &PlanDisk, mode: Mode) -> Result<()> {
        if mode == Mode::Install || self.existing == Becomes::Kept {
            return Ok(());
        }
        let (Release { name, version, .. }, contents) = (&self.release, &disk.contents);
        Err(coded(Code::NotInstalled, format!("disk {} does not hold {name} {version}, but {contents}", disk.name)))
    }
}

/// Decides it.
///
/// # Errors
/// [`Code::DiskTooSmall`]; [`Code::DiskNotBlank`]; [`Code::DiskIo`].
fn existing<'a>(disk: &'a PlanDisk, manifest: &Manifest, host: &Host) -> Result<Settled<'a>> {
    // A repair wipes nothing, whatever is still to happen once.
    let may_wipe = host.mode == Mode::Install && host.existing == Existing::Wipe;
    let wipes = may_wipe && !is_done(&as_far_as_read(disk), host);
    // Where the slots lie does not depend on which of them is filled.
    let (partitions, _) = layout::partitions(disk, manifest, FIRST_SLOT, !wipes)?;
    let ours = Ours::new(disk, &partitions);
    let anew = |existing, target| anew(disk, manifest, existing, target);
    match (&disk.contents, ours) {
        // What is kept must be known.
        (Contents::Unreadable { error, otherwise }, _) if !wipes || otherwise.is_none() => {
            Err(coded(Code::DiskIo, format!("disk {} cannot be read: {error}", disk.name)))
        }
        (Contents::Blank, _) => anew(Becomes::Blank, FIRST_SLOT),
        (_, Some(ours)) if !wipes => {
            let holds = reuse::with_root_hash(ours.table, &partitions, manifest)?;
            if holds.is_none() && host.existing == Existing::Refuse && host.mode == Mode::Install {
                return Err(refused(disk));
            }
            stays(disk, manifest, ours, ours.target(&partitions, manifest)?, holds.is_some())
        }
        (contents, _) if wipes => {
            let what = what_goes(contents);
            // What is erased is good for nothing any more; after an interruption the disk looks blank.
            let same = host.erase == Erase::None
                && matches!(contents, Contents::Gpt { table, .. } if reuse::has_slots(&partitions, table));
            let target = if same { reuse::target(disk, &partitions, manifest)? } else { FIRST_SLOT };
            let existing = if same { Becomes::Replaced { what } } else { Becomes::Wiped { what } };
            anew(existing, target)
        }
        _ if host.mode == Mode::Repair => anew(Becomes::Blank, FIRST_SLOT),
        _ if host.existing == Existing::Wipe => {
            let intent = host.intent.as_deref().unwrap_or_default();
            let text = format!("on which the intent {intent:?} has happened, but not as {} wants it", host.release);
            Err(not_blank(disk, &format!("{text}: only a new intent wipes it")))
        }
        _ if reuse::is_made_by_us(disk) => {
            let text = format!("laid out by metalstrap, but not as {} wants it; ", host.release);
            Err(not_blank(
                disk,
                &format!("{text}and the host config does not permit wiping it (\"existing\": \"wipe\")"),
            ))
        }
        _ => Err(not_blank(disk, "and the host config does not permit wiping it (\"existing\": \"wipe\")")),
    }
}

/// Whether names of UKIs may change: not where only a blank disk is wanted, and one that has the release is just gone on with.
///
/// # Errors
/// [`Code::DiskNotBlank`].
fn check_names(disk: &PlanDisk, host: &Host, names: &Names) -> Result<()> {
    let changes = !names.removed.is_empty() || !names.renamed.is_empty();
    if changes && host.existing == Existing::Refuse && host.mode == Mode::Install {
        return Err(refused(disk));
    }
    Ok(())
}

/// What is wiped, for people. Errors name the disk as the kernel does, which is no part of a plan.
fn what_goes(contents: &Contents) -> String {
    match contents {
        Contents::Unreadable { otherwise: Some(known), .. } => format!("{known}; some of its sectors cannot be read"),
        _ => contents.to_string(),
    }
}

/// The disk with what is known of it, where some of its sectors cannot be read.
fn as_far_as_read(disk: &PlanDisk) -> Cow<'_, PlanDisk> {
    match &disk.contents {
        Contents::Unreadable { otherwise: Some(known), .. } => {
            Cow::Owned(PlanDisk { contents: (**known).clone(), ..disk.clone() })
        }
        _ => Cow::Borrowed(disk),
    }
}

/// A disk that is not blank, where only such a one is wanted.
fn refused(disk: &PlanDisk) -> anyhow::Error {
    not_blank(disk, "and the host config says \"existing\": \"refuse\"")
}

fn not_blank(disk: &PlanDisk, text: &str) -> anyhow::Error {
    coded(Code::DiskNotBlank, format!("disk {} holds {}, {text}", disk.name, disk.contents))
}

/// A disk whose table will be a new one.
fn anew<'a>(disk: &PlanDisk, manifest: &Manifest, existing: Becomes, target: char) -> Result<Settled<'a>> {
    let (partitions, free) = layout::partitions(disk, manifest, target, false)?;
    Ok(Settled { existing, target, ours: None, holds: false, partitions, free })
}

/// A disk of ours whose table stays, but for the slot that gets the release, if that is not there yet.
fn stays<'a>(
    disk: &'a PlanDisk,
    manifest: &Manifest,
    ours: Ours<'a>,
    target: char,
    holds: bool,
) -> Result<Settled<'a>> {
    let (mut partitions, free) = layout::partitions(disk, manifest, target, true)?;
    ours.take_over(&mut partitions, target);
    let existing = if partitions.iter().all(|partition| ours.table.partitions.contains(&partition.entry)) {
        Becomes::Kept
    } else {
        Becomes::Updated { from: ours.label(&partitions, target).unwrap_or_default().to_owned() }
    };
    Ok(Settled { existing, target, ours: Some(ours), holds, partitions, free })
}

/// Whether what the host config wants to happen once has happened on this disk.
fn is_done(disk: &PlanDisk, host: &Host) -> bool {
    host.intent.as_ref().is_some_and(|intent| happened(disk, host).contains(intent))
}

/// What has happened to the disk, the newest last: all that is asked of that goes by this. It does not matter who has made the
/// disk, nor where it has been since: one that has grown or moved is not wiped a second time. Of the intents that only the GUID
/// of the table knows it has that of the host config.
fn happened(disk: &PlanDisk, host: &Host) -> Vec<String> {
    let noted = noted(disk);
    // What only the machine remembers was before what the disk has had since.
    let lost = disk.remembered.iter().filter(|intent| !noted.contains(intent));
    let by_guid = host.intent.as_ref().filter(|intent| {
        let guid = guid(&disk.identity, Some(intent.as_str()));
        matches!(&disk.contents, Contents::Gpt { table, .. } if table.disk_guid == guid) && reuse::is_made_by_us(disk)
    });
    let unknown = by_guid.filter(|intent| !disk.remembered.contains(intent) && !noted.contains(intent));
    lost.chain(noted).chain(unknown).cloned().collect()
}

/// What the ESP says of that.
fn noted(disk: &PlanDisk) -> &[String] {
    match &disk.contents {
        Contents::Gpt { esp, .. } => esp.files().map(|files| files.intents.as_slice()).unwrap_or_default(),
        Contents::Blank | Contents::Foreign { .. } | Contents::Unreadable { .. } => &[],
    }
}

/// The GUID of a new table.
fn disk_guid(disk: &PlanDisk, host: &Host) -> Uuid {
    guid(&disk.identity, host.intent.as_deref())
}

fn guid(disk: &Identity, intent: Option<&str>) -> Uuid {
    let role = intent.map_or_else(|| "disk".to_owned(), |intent| format!("disk {intent}"));
    layout::derived_uuid(disk, &role)
}

/// The intents that the disk remembers from now on. A repair leaves those that it has.
fn intents(disk: &PlanDisk, host: &Host) -> Vec<String> {
    let disk = &*as_far_as_read(disk);
    if host.mode == Mode::Repair {
        return noted(disk).to_vec();
    }
    let happened = happened(disk, host);
    let all = happened.iter().fold(Vec::new(), |all, intent| boot_files::with_intent(&all, intent));
    match &host.intent {
        // A new one, or one that was among the oldest: while it is wanted it is not forgotten.
        Some(intent) if !all.contains(intent) => boot_files::with_intent(&all, intent),
        _ => all,
    }
}
