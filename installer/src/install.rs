//! The installation, top to bottom: every name here is a module beside this file.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::site::Site;

use crate::config::{Place, SiteBytes};
use crate::ending::Ending;
use crate::failure::{Failure, Touched};
use crate::fetch::Source;
use crate::handoff::CommandLine;
use crate::inventory::DiskFacts;
use crate::machine::Machine;
use crate::manifest;
use crate::plan::Plan;
use crate::report::{Reporter, fields};
use crate::stages::Locked;
use crate::summary::{self, Summary};
use crate::watermark::Watermark;

/// All that is decided before the first write.
#[derive(Debug)]
struct Decided {
    site: Site,
    source: Arc<dyn Source>,
    manifest: Manifest,
    command_line: CommandLine,
    disk: DiskFacts,
    plan: Plan,
}

/// Installs the release: when this returns, the disk boots it, and the ending is what the site config wants.
///
/// # Errors
/// The first step that fails; [`Reporter::touched`] says how far it got.
pub async fn install(place: &Place, tell: &Reporter) -> Result<Ending> {
    let memory = Watermark::start();
    let mut machine = Machine::wake(place, tell)?;
    let Decided { site, source, manifest, command_line, disk, plan } = decide(&mut machine, place, tell).await?;
    let source = source.as_ref();
    machine.measure("kernel-cmdline", command_line.as_str().as_bytes())?;

    let locked = tell.step("lock", "Locking the disk", |_| Locked::lock(&disk, plan))?;
    // Nothing has been written so far.
    tell.touches(locked.touched(&disk));
    let invalidated = tell.step("invalidate", "Clearing the disk's old tables", |_| locked.invalidate())?;
    let treed = tell
        .wait("hash-tree", "Writing the hash tree", async |p| invalidated.hash_tree(source, &manifest, &p).await)
        .await?;
    let written =
        tell.wait("root", "Writing the root file system", async |p| treed.root(source, &manifest, &p).await).await?;
    let checked =
        tell.wait("read-back", "Reading the root file system back", async |p| written.read_back(&p).await).await?;
    let committed = tell.step("gpt", "Writing the partition table", |_| checked.commit())?;
    let bootable =
        tell.wait("esp", "Writing boot loader and UKI", async |p| committed.esp(source, &manifest, &p).await).await?;
    tell.touches(Touched::Complete(disk.describe()));
    // Results: they are what the manifest says, or the run had ended.
    machine.measure("root-hash", manifest.root()?.root_hash.to_string().as_bytes())?;
    machine.measure("uki", manifest.boot.uki.sha256.to_string().as_bytes())?;

    let mut summary = Summary::new(&manifest, &bootable);
    let mut ending = Ending::Poweroff;
    if machine.is_netboot() {
        let partition = bootable.boot_partition()?;
        summary.boot_entry = Some(tell.step("boot-entry", "Setting the firmware's boot entry", |_| {
            Ok(machine.boot_entry(&partition, &manifest, &site))
        })?);
        ending = tell.step("kernel", "Preparing the handoff", |_| {
            machine.prepare_handoff(&bootable.esp, &manifest.boot, &command_line, &site)
        })?;
    }
    summary.finish(&ending, &machine, &memory, tell).await;
    if ending == Ending::Kexec {
        machine.quiesce();
    }
    Ok(ending)
}

/// The same without a write: the plan.
///
/// # Errors
/// The first step that fails.
pub async fn plan(place: &Place, tell: &Reporter) -> Result<Plan> {
    let mut machine = Machine::wake(place, tell)?;
    Ok(decide(&mut machine, place, tell).await?.plan)
}

/// From the site config to the plan. Each input is measured right after it is loaded and before it is parsed.
async fn decide(machine: &mut Machine<'_>, place: &Place, tell: &Reporter) -> Result<Decided> {
    let bytes = tell.step("site-config", "Reading the site config", |_| SiteBytes::load(place))?;
    machine.measure("site-config", bytes.bytes())?;
    let site = tell.step("site-config", "Checking the site config", |_| Ok(place.adapt(bytes.parse()?)))?;
    tell.obey(site.reboot_on_failure_after);
    let resolver = tell.wait("network", place.network_step(), async |p| machine.network(&site, &p).await).await?;
    // Only now, so that a server hears of a machine without the TPM that is required.
    machine.decide_measuring(&site)?;
    let source = machine.repository(&site, &resolver)?;
    let bytes =
        tell.wait("manifest", "Fetching the manifest", async |_| manifest::fetch(source.as_ref(), &site).await).await?;
    machine.measure("manifest", &bytes)?;
    let manifest = tell.step("manifest", "Checking the manifest", |_| manifest::parse(&bytes))?;
    let command_line =
        tell.step("manifest", "Checking the kernel command line", |_| CommandLine::for_handoff(&manifest, &site))?;
    let disk = tell.step("disk", "Choosing the disk", |_| machine.choose_disk(&site))?;
    tell.say(&format!("installing {} {} to {}", manifest.name, manifest.version, disk.describe()));
    let plan = tell.step("plan", "Planning the disk", |_| Plan::new(&disk.for_plan(), &manifest, &site))?;
    machine.measure("plan", &plan.canonical()?)?;
    tell.tell(
        "plan",
        "info",
        fields([("hash", plan.hash()?.to_string().into()), ("plan", serde_json::to_value(&plan)?)]),
    );
    Ok(Decided { site, source, manifest, command_line, disk, plan })
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
