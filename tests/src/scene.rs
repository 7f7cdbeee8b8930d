//! What most scenarios have in common: a lab, a published release, a site config, and a machine with one disk.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use metalstrap_qemu::{Builder, Disk, Exit, Lab, Machine, RunDir, minutes};
use metalstrap_release::host::Host;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::site::Site;
use metalstrap_tiny::report::{PREFIX, Report};
use serde_json::Value;

use crate::artifacts::{self, Flavour};
use crate::release::{self, Published, Target};

/// Serial number of the machine's disk.
pub const SERIAL: &str = "SCENE-1";
/// Bytes of its disk, unless a scenario says otherwise.
pub const DISK: u64 = 3 << 30;

/// A lab with a release in it. The directory is removed by [`Scene::passed`].
#[derive(Debug)]
pub struct Scene {
    /// Everything of this run is below it.
    pub run: RunDir,
    /// The network, the web server and their CA.
    pub lab: Lab,
    /// The release.
    pub published: Published,
    /// The site config, to be changed before a machine starts.
    pub site: Site,
    /// The config of every machine, likewise.
    pub host: Host,
    /// Further files of the initrd (path, mode, bytes).
    pub extra_files: Vec<(String, u32, Vec<u8>)>,
    /// Goes behind the netboot image's kernel command line.
    pub cmdline_extra: String,
    /// Whose kernel it has; the one for virtual machines unless a scenario says otherwise.
    pub flavour: Flavour,
}

impl Scene {
    /// Publishes `target` into a lab of its own.
    ///
    /// # Errors
    /// What is missing, or did not start.
    pub fn new(name: &str, target: Target) -> Result<Self> {
        Self::publishing(name, target, &[release::UNCONFIRMED])
    }

    /// The same, published with further words of the command.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn publishing(name: &str, target: Target, more: &[&str]) -> Result<Self> {
        let run = RunDir::new(name)?;
        let published = release::publish_with(target, run.path(), more)?;
        let lab = Lab::new(&run.path().join("lab"))?;
        lab.serve_repository(&published.repository)?;
        let site = release::site(&lab, &published)?;
        let mut host = release::host(target);
        host.disk.serial = Some(SERIAL.to_owned());
        let (extra_files, cmdline_extra, flavour) = (Vec::new(), String::new(), Flavour::Cloud);
        Ok(Self { run, lab, published, site, host, extra_files, cmdline_extra, flavour })
    }

    /// Lets the saboteur start as the kernel's init, leave a process behind that lies in wait until the step `after` has started, and
    /// become the real one; `deed` is what it does then.
    ///
    /// # Errors
    /// It was not built.
    pub fn sabotage(&mut self, deed: &str, after: &str) -> Result<()> {
        let saboteur = artifacts::program("release", "saboteur")?;
        let bytes = std::fs::read(&saboteur).with_context(|| format!("reading {}", saboteur.display()))?;
        self.extra_files.push(("saboteur".to_owned(), 0o755, bytes));
        self.cmdline_extra = format!("rdinit=/saboteur saboteur={deed} saboteur.after={after}");
        Ok(())
    }

    /// Signs the host config and makes the netboot image for the site config, both as they are now.
    ///
    /// # Errors
    /// A part is missing, or ukify failed.
    pub fn netboot(&self) -> Result<PathBuf> {
        self.published.add_default_host(&self.host)?;
        let output = self.image();
        artifacts::netboot_with(&self.site, self.flavour, &self.cmdline_extra, self.extra_files.clone(), &output)?;
        Ok(output)
    }

    fn image(&self) -> PathBuf {
        self.run.path().join("netboot.efi")
    }

    /// A machine with the tests' smallest memory and a disk of `bytes`, started as kernel and initrd of the netboot
    /// image: the same installer without the time that firmware takes.
    ///
    /// # Errors
    /// A part is missing, or the machine does not start.
    pub fn start(&self, bytes: u64, more: impl FnOnce(Builder) -> Builder) -> Result<Machine<'_>> {
        let machine = Machine::builder("machine").memory(512).disk(Disk::virtio(bytes).serial(SERIAL));
        self.netboot()?;
        more(self.boots_the_installer()?(machine)).start(&self.lab)
    }

    /// Pulls the plug of `machine` and starts the netboot image again, wherever it has booted from since. The host config
    /// stays what was signed last.
    ///
    /// # Errors
    /// A part is missing, or the machine does not start.
    pub fn start_again<'lab>(&self, machine: Machine<'lab>) -> Result<Machine<'lab>> {
        machine.power_cycle(self.boots_the_installer()?)
    }

    fn boots_the_installer(&self) -> Result<impl FnOnce(Builder) -> Builder> {
        let image = self.image();
        let cmdline = image.with_extension("cmdline");
        let cmdline = std::fs::read_to_string(&cmdline).with_context(|| format!("reading {}", cmdline.display()))?;
        let kernel = self.flavour.kernel()?.vmlinuz;
        Ok(move |machine: Builder| machine.direct_boot(&kernel, Some(&image.with_extension("initrd")), &cmdline))
    }

    /// Starts a machine with the tests' disk that must refuse with `code` and the words `happened`, before a byte is
    /// written, and end in a reset.
    ///
    /// # Errors
    /// It does anything else.
    pub fn refuses(&mut self, code: &str, happened: &str, more: impl FnOnce(Builder) -> Builder) -> Result<()> {
        self.site.reboot_on_failure_after = Some(3);
        let mut machine = self.start(DISK, more)?;
        let before = machine.serial().wait_for(&format!("*** INSTALLATION FAILED: {code} ***"), LONG)?;
        let after = machine.serial().wait_for("What to do:", minutes(2))?;
        let told = format!("What happened: {happened}");
        ensure!(after.contains(&told), "the console does not say {told:?}, but {after}\n{before}");
        ensure!(
            after.contains("No disk was written to."),
            "the console does not say that nothing was written: {after}"
        );
        let exit = machine.wait_exit(LONG)?;
        ensure!(exit == Exit::Reset, "the machine ended with {exit:?}, not with a reset");
        let disk = machine.disk(0).context("the machine has no disk")?;
        ensure!(is_blank(&disk)?, "something was written to the disk");
        Ok(())
    }

    /// The published manifest.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn manifest(&self) -> Result<Manifest> {
        let path = self.published.repository.join(&self.published.manifest);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Manifest::parse(&bytes)?)
    }

    /// The fields of the run's last event in the reports that the server got, once it has come.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn reported(&self, state: &str, within: Duration) -> Result<Value> {
        metalstrap_qemu::until("the run's last event in the reports", within, || {
            let mut events = self.lab.reports()?.into_iter();
            Ok(events
                .find(|event| event["step"] == "run" && event["state"] == state)
                .map(|event| event.get("fields").cloned().unwrap_or_default()))
        })
    }

    /// Everything was as it should be: removes the directory.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn passed(self) -> Result<()> {
        let Self { run, lab, .. } = self;
        drop(lab);
        run.passed()
    }
}

/// What the tiny target has said of itself, whose root must be dm-verity's, once it has switched the machine off.
///
/// # Errors
/// It was not started in time, or something is not as it should be.
pub fn started(machine: &mut Machine<'_>, within: Duration) -> Result<Report> {
    machine.serial().wait_for(PREFIX, within)?;
    let exit = machine.wait_exit(minutes(2))?;
    ensure!(exit == Exit::PoweredOff, "the machine ended with {exit:?}, and was not switched off");
    let report = Report::find(&machine.serial().text()).context("finding what the OS says of itself")?;
    ensure!(report.root_is_verity, "the root is no dm-verity device: {report:?}");
    Ok(report)
}

/// The last plan that the installer has told on the console.
///
/// # Errors
/// There is none.
pub fn plan(machine: &Machine<'_>) -> Result<Value> {
    let events = machine.serial().events();
    let plan = events.iter().rev().find_map(|event| event.value.pointer("/fields/plan").cloned());
    plan.context("finding the plan on the console")
}

/// Whether the disk at `path` holds nothing but zeroes: reads only what is allocated.
///
/// # Errors
/// It cannot be read.
pub fn is_blank(path: &std::path::Path) -> Result<bool> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        if length == 0 {
            return Ok(true);
        }
        if buffer.iter().take(length).any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

/// How long a machine may take from power-on to the end of an installation of the tiny target, without KVM on a busy host.
pub const LONG: Duration = minutes(8);
