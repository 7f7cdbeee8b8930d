//! The installation, top to bottom: every name here is a module beside this file.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::discovery::{Chosen, Discovery, Settings};
use metalstrap_release::host::{Host, Mode};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::metadata::Versions;
use metalstrap_release::pcr::Signatures;

use crate::config::{Place, SiteBytes};
use crate::credentials::{self, Sealed};
use crate::ending::Ending;
use crate::failure::{Failure, Touched};
use crate::fetch::Mirrors;
use crate::handoff::CommandLine;
use crate::inventory::DiskFacts;
use crate::look::{Findings, look};
use crate::machine::{Machine, Seams};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Reporter, fields};
use crate::repository::{self, Repository};
use crate::secure_boot::Asked;
use crate::stages::{Checked, Erased, Locked};
use crate::summary::{self, Summary};
use crate::watermark::Watermark;

/// All that is decided before the first write.
#[derive(Debug)]
struct Decided {
    host: Host,
    mirrors: Arc<Mirrors>,
    versions: Versions,
    manifest: Manifest,
    command_line: CommandLine,
    disk: DiskFacts,
    plan: Plan,
    credentials: Vec<Sealed>,
    signatures: Signatures,
    /// Keys that the firmware is to get.
    keys: Vec<Asked>,
}

/// What follows the plan: who only looks at it leaves the disk as it is, locked or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Install,
    Nothing,
}

/// What the repository's owner has signed for this machine.
#[derive(Debug)]
struct Signed {
    host: Host,
    mirrors: Arc<Mirrors>,
    versions: Versions,
    manifest: Manifest,
    /// Policies for PCR 11.
    signatures: Signatures,
    /// The settings of the run, each with its source.
    settings: Vec<Chosen>,
}

/// Installs the release: when this returns, the disk boots it, and the ending is what the host config wants.
///
/// # Errors
/// The first step that fails; [`Reporter::touched`] says how far it got.
pub async fn install(place: &Place, tell: &Reporter) -> Result<Ending> {
    install_with(place, tell, Seams::default()).await
}

/// The same with what a test puts in the machine's place.
///
/// # Errors
/// As [`install`].
pub async fn install_with(place: &Place, tell: &Reporter, seams: Seams) -> Result<Ending> {
    let memory = Watermark::start();
    let mut machine = Machine::wake(place, tell, seams)?;
    let Decided { host, mirrors, versions, manifest, command_line, disk, plan, credentials, signatures, keys } =
        decide(&mut machine, place, Then::Install, tell).await?;
    machine.measure("kernel-cmdline", command_line.as_str().as_bytes())?;

    mirrors.fetch_ahead(crate::converge::ahead(&manifest, &plan.existing)?);
    let intents = plan.intents.clone();
    if !plan.existing.stays() {
        // A run that is cut has wiped what the disk knows.
        machine.remember_intents(&disk, intents.iter().filter(|intent| Some(*intent) != host.intent.as_ref()));
    }
    let erased = take(&machine, &host, &disk, plan, tell)?;
    let checked = converge(erased, &mirrors, &manifest, place, tell).await?;
    let committed = tell.step("gpt", "Writing the partition table", |_| checked.commit())?;
    let write = async |p: Progress| committed.esp(&mirrors, &manifest, &credentials, &p).await;
    let bootable = tell.wait("esp", "Writing boot loader and UKI", write).await?;
    tell.touches(Touched::Complete(disk.describe()));
    // Results: they are what the manifest says, or the run had ended.
    machine.measure("root-hash", manifest.root()?.root_hash.to_string().as_bytes())?;
    machine.measure("uki", manifest.boot.uki.sha256.to_string().as_bytes())?;

    machine.remember(&versions);
    // Nothing has happened to a disk that was mended.
    if host.mode == Mode::Install {
        let remembers = machine.remember_intents(&disk, intents.iter());
        machine.tell_unnoted(&bootable.esp.unnoted, remembers, |intent| bootable.guid_knows(intent));
    }

    let credentials = machine.attest(&host, &bootable.esp_region()?, credentials).await?;
    let mut summary = Summary::new(&manifest, &bootable);
    let mut ending = Ending::Poweroff;
    if machine.sets_boot_entry() {
        let partition = bootable.boot_partition()?;
        summary.boot_entry = Some(tell.step("boot-entry", "Setting the firmware's boot entry", |_| {
            Ok(machine.boot_entry(&partition, &manifest, &host))
        })?);
    }
    machine.enroll(&keys)?;
    if machine.is_netboot() {
        ending = tell.step("kernel", "Preparing the handoff", |_| {
            let (handed, host) = machine.to_hand_over(credentials, &manifest, host);
            machine.prepare_handoff(&bootable.esp, &manifest.boot, &command_line, &handed, &signatures, &host)
        })?;
    }
    machine.set_hardware_clock();
    summary.attestation = machine.attestation_report();
    summary.finish(&ending, &machine, &memory, tell).await;
    if ending == Ending::Kexec {
        ending = machine.quiesce(&manifest);
    }
    Ok(ending)
}

/// The disk becomes ours, and is erased where the plan says so.
fn take(machine: &Machine<'_>, host: &Host, disk: &DiskFacts, plan: Plan, tell: &Reporter) -> Result<Erased> {
    machine.free_disk(host, &plan, disk)?;
    let (locked, eraser) = tell.step("lock", "Locking the disk", |_| {
        let locked = Locked::new(machine.lock_disk(disk)?, plan);
        let eraser = machine.eraser(&locked, disk)?;
        Ok((locked, eraser))
    })?;
    // Nothing has been written so far.
    tell.touches(locked.touched(disk));
    locked.erase(eraser.as_ref(), disk, tell)
}

/// From the erasure to a root file system that is on the disk, whole and checked.
async fn converge(
    erased: Erased,
    mirrors: &Arc<Mirrors>,
    manifest: &Manifest,
    place: &Place,
    tell: &Reporter,
) -> Result<Checked> {
    let invalidated = tell.step("invalidate", "Clearing the disk's old tables", |p| erased.invalidate(p))?;
    let treed = tell
        .wait("hash-tree", "Writing the hash tree", async |p| invalidated.hash_tree(mirrors, manifest, &p).await)
        .await?;
    let root = async |p: Progress| treed.root(mirrors, manifest, place.read_back(), &p).await;
    let written = tell.wait("root", "Writing the root file system", root).await?;
    if place.reads_back() {
        tell.wait("read-back", "Reading the root file system back", async |p| written.read_back(&p).await).await
    } else {
        tell.warn("read-back", "the root file system is not read back: the drive is believed");
        tell.wait("flush", "Flushing the disk", async |_| written.flush_only().await).await
    }
}

/// The same without a write: the plan.
///
/// # Errors
/// The first step that fails.
pub async fn plan(place: &Place, tell: &Reporter) -> Result<Plan> {
    let mut machine = Machine::wake(place, tell, Seams::default())?;
    Ok(decide(&mut machine, place, Then::Nothing, tell).await?.plan)
}

/// Looks at the release on the disk, and writes nothing.
///
/// # Errors
/// The first step that fails; [`Code::NotInstalled`](crate::failure::Code::NotInstalled) if the disk does not hold it.
pub async fn verify(place: &Place, tell: &Reporter) -> Result<Findings> {
    let mut machine = Machine::wake(place, tell, Seams::default())?;
    let Signed { host, mirrors, manifest, .. } = believe(&mut machine, place, tell).await?;
    let secrets = machine.open_secrets(&host)?;
    let facts = machine.look_at_disk()?;
    let found = machine.for_plan(&facts);
    let plan = tell.step("plan", "Finding the release", |_| Plan::to_look(&found, &manifest, &host))?;
    let credentials = machine.seal(&host, secrets, &plan, &facts).await?;
    look(facts.open_to_read()?, &plan, (&manifest, &credentials), &mirrors, tell).await
}

/// From the site config to the plan.
async fn decide(machine: &mut Machine<'_>, place: &Place, then: Then, tell: &Reporter) -> Result<Decided> {
    let Signed { host, mirrors, versions, manifest, signatures, settings } = believe(machine, place, tell).await?;
    let secrets = machine.open_secrets(&host)?;
    let command_line = tell.step("manifest", "Composing the kernel command line", |_| {
        CommandLine::for_handoff(&manifest, &host, machine.measures())
    })?;
    let keys = machine.missing_keys(&host, &manifest)?;
    let disk = tell.step("disk", "Choosing the disk", |_| {
        let chosen = machine.choose_disk(&host)?;
        if then == Then::Install { machine.unlock(&host, chosen) } else { Ok(chosen) }
    })?;
    tell.say(&format!("installing {} {} to {}", manifest.name, manifest.version, disk.describe()));
    let plan = tell.step("plan", "Planning the disk", |_| {
        let plan = Plan::new(&machine.for_plan(&disk), &manifest, &host)?;
        machine.check_holders(&host, &plan, &disk)?;
        Ok(plan)
    })?;
    let credentials = machine.seal(&host, secrets, &plan, &disk).await?;
    let (host, plan) = machine.decide_handoff(host, plan, &manifest.boot, &signatures);
    let (host, plan) = tell.step("plan", "Checking the kernel command line", |_| {
        machine.fit_command_line(host, plan, &command_line, &manifest.boot)
    })?;
    machine.measure("plan", &plan.canonical()?)?;
    let details = [
        ("hash", plan.hash()?.to_string().into()),
        ("plan", serde_json::to_value(&plan)?),
        ("settings", serde_json::to_value(settings)?),
    ];
    tell.tell("plan", "info", fields(details));
    Ok(Decided { host, mirrors, versions, manifest, command_line, disk, plan, credentials, signatures, keys })
}

/// From the site config to the manifest. Each input is measured right after it is loaded and before it is parsed; not so what only
/// lets through what is measured (docs/measurements.md).
async fn believe(machine: &mut Machine<'_>, place: &Place, tell: &Reporter) -> Result<Signed> {
    let bytes = tell.step("site-config", "Reading the site config", |_| SiteBytes::load(place))?;
    machine.measure("site-config", bytes.bytes())?;
    let site = tell.step("site-config", "Checking the site config", |_| bytes.parse())?;
    tell.obey(site.reboot_on_failure_after);
    machine.show_on(&site.consoles);
    let mut discovery = Discovery::new(site);
    if machine.discovers() {
        tell.step("discovery", "Looking for settings", |_| machine.discover(&mut discovery))?;
        tell.obey(discovery.site().reboot_on_failure_after);
    }
    let up = async |p: Progress| machine.network(&mut discovery, &p).await;
    let resolver = tell.wait("network", place.network_step(), up).await?;
    let Settings { site, chosen, .. } = machine.settle(discovery);
    machine.ask_time(&site, &resolver).await;
    let source = machine.repository(&site, &resolver)?;
    let known = machine.recall();
    let load = async |_| machine.load_repository(source, &site, &resolver, &known).await;
    let repository = tell.wait("metadata", "Checking the repository's metadata", load).await?;
    tell.tell("metadata", "info", fields([("versions", serde_json::to_value(&repository.metadata.versions)?)]));

    let host = host_config(machine, &repository, place, tell).await?;
    machine.decide_measuring(&host)?;
    let fetch = async |_| repository.manifest(&host.release).await;
    let bytes = tell.wait("manifest", "Fetching the manifest", fetch).await?;
    machine.measure("manifest", &bytes)?;
    let manifest =
        tell.step("manifest", "Checking the manifest", |_| repository::parse_manifest(&bytes, &host.release))?;
    let signatures = machine.signatures(&repository, &host, &manifest.boot).await?;
    machine.know_verifier(&host, &site, &resolver)?;
    let Repository { source, metadata } = repository;
    let mirrors = Arc::new(machine.mirrors(source, &site, &resolver)?);
    Ok(Signed { host, mirrors, versions: metadata.versions, manifest, signatures, settings: chosen })
}

/// The machine's host config: its own, that of its group, or the one for every machine.
async fn host_config(
    machine: &mut Machine<'_>,
    repository: &Repository,
    place: &Place,
    tell: &Reporter,
) -> Result<Host> {
    let (keys, identity) = (machine.host_keys(), machine.identity());
    for at in repository.host_places(&keys) {
        let fetch = async |_| repository.host_bytes(&at).await;
        let bytes = tell.wait("host-config", "Fetching the host config", fetch).await?;
        machine.measure(bytes.measured_as(), bytes.bytes())?;
        let found = tell.step("host-config", "Checking the host config", |_| {
            let Some((host, found_by)) = bytes.parse(&identity)? else { return Ok(None) };
            let host = credentials::for_machine(host, &machine.known())?;
            machine.check_credentials(&host)?;
            Ok(Some((host, found_by)))
        })?;
        if let Some((host, found_by)) = found {
            let details = [("key", found_by.clone().into()), ("release", host.release.to_string().into())];
            tell.tell("host-config", "info", fields(details));
            allow(machine, repository, &host, &found_by, tell).await?;
            return Ok(place.adapt(host));
        }
    }
    tell.step("host-config", "Fetching the host config", |_| Err(repository.no_host(&keys)))
}

/// Whether whoever signs releases lets a host config name this one.
async fn allow(
    machine: &mut Machine<'_>,
    repository: &Repository,
    host: &Host,
    found_by: &str,
    tell: &Reporter,
) -> Result<()> {
    if repository.metadata.allowed.is_none() {
        return Ok(());
    }
    let fetch = async |_| repository.allowed_bytes().await;
    let Some(list) = tell.wait("host-config", "Fetching the list of allowed releases", fetch).await? else {
        return Ok(());
    };
    machine.measure("allowed-releases", &list)?;
    tell.step("host-config", "Checking that the release is allowed", |_| {
        repository::check_allowed(&list, found_by, &host.release)
    })
}

/// The whole run in the netboot image: always an ending, never an error.
pub async fn netboot(tell: &Reporter) -> Ending {
    match install(&Place::Netboot, tell).await {
        Ok(ending) => ending,
        Err(error) => {
            let failure = Failure::new(&tell.current_step(), &error, &tell.touched());
            summary::report_failure(&failure, tell).await;
            Ending::Failed { failure, reboot_after: tell.reboot_after() }
        }
    }
}
