//! The machine under the installer: what is done to it in the netboot image, and left alone on a running system.

mod attestation;
mod boot_entry;
mod credentials;
mod disk;
mod kexec;
mod leaving;
mod memory;
mod secure_boot;
mod settings;
mod time;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use metalstrap_release::discovery::{Discovery, repository};
use metalstrap_release::host::{HandoffMode, Host, HostKey, TpmPolicy};
use metalstrap_release::manifest::Boot;
use metalstrap_release::pcr::Signatures;
use metalstrap_release::site::Site;

use crate::access::Access;
use crate::bootvars::Variables;
use crate::clock::Clock;
use crate::config::Place;
use crate::credentials::{Sealed, archive};
use crate::discovery::heard::{Listener, Saying};
use crate::discovery::{self, Sources};
use crate::disk::Disk;
use crate::drivers;
use crate::ending::Ending;
use crate::erase::{DriveOpener, KernelDrive};
use crate::esp::Esp;
use crate::eventlog::{Measurement, Measurer};
use crate::failure::{Code, WithCode as _};
use crate::fetch::{DirectorySource, Mirrors, Source};
use crate::handoff::{self, CommandLine, marker};
use crate::holders::{Acts, KernelActs};
use crate::http::Limits;
use crate::https::HttpsSource;
use crate::inventory::DiskFacts;
use crate::link::Which;
use crate::net::{self, Network};
use crate::post::Poster;
use crate::progress::Progress;
use crate::remembered::nv::NvMemory;
use crate::report::{Reporter, fields};
use crate::resolve::Resolver;
use crate::tpm::PcrIndex;
use crate::tpm::direct::{self, Direct};

use attestation::Attester;
pub use boot_entry::Firmware;
use leaving::Leaving;

/// Opens and locks a disk.
pub type Opener = Box<dyn Fn(&DiskFacts) -> Result<Arc<dyn Disk>> + Send + Sync>;

/// Finds the TPM that opens secrets and attests the machine.
pub type TpmOpener = Box<dyn Fn() -> Result<Option<Direct>> + Send + Sync>;

/// What of the machine may be another thing in a test: how its disk is freed, opened and locked, the drive behind it, its
/// firmware, its TPM, for measuring and for secrets, what says whether credentials are refused, its clock, where its settings come
/// from, and how long servers are waited for.
pub struct Seams {
    /// Opens and locks the disk that was chosen.
    pub open: Opener,
    /// Takes down what holds the disk.
    pub acts: Box<dyn Acts>,
    /// Finds the drive behind the disk.
    pub drive: DriveOpener,
    /// Its firmware. `None` is the machine's own, which gets a boot entry in the netboot image alone.
    pub firmware: Option<Firmware>,
    /// Its firmware's variables that are ours.
    pub own: Box<dyn Variables + Send + Sync>,
    /// Takes its network links down; returns what did not go as it should.
    pub links: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Its TPM and the log of measurements. `None` is the machine's own, which an ordinary command leaves alone.
    pub measurer: Option<Measurer>,
    /// Its clock. `None` is the machine's own, which an ordinary command leaves alone.
    pub clock: Option<Clock>,
    /// Where settings may come from. `None` is this machine, which is asked in the netboot image alone.
    pub sources: Option<Sources>,
    /// Finds the TPM that opens secrets and attests the machine.
    pub tpm: TpmOpener,
    /// Its sysfs, for what makes systemd refuse credentials: Secure Boot and a TPM.
    pub sys: PathBuf,
    /// For the repository's server.
    pub limits: Limits,
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            open: Box::new(|facts| facts.lock(Path::new("/sys"))),
            acts: Box::new(KernelActs),
            drive: Box::new(KernelDrive::of),
            firmware: None,
            own: Box::new(marker::variables()),
            links: Box::new(handoff::quiesce),
            measurer: None,
            clock: None,
            sources: None,
            tpm: Box::new(direct::open),
            sys: "/sys".into(),
            limits: Limits::default(),
        }
    }
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The machine, its place, and the TPM that measures what is decided for it.
#[derive(Debug)]
pub struct Machine<'a> {
    place: &'a Place,
    tell: &'a Reporter,
    measurer: Measurer,
    /// Kept for its tasks, which renew the leases.
    network: Option<Network>,
    /// In the netboot image, or a test's.
    clock: Option<Clock>,
    /// What may keep disks from being found.
    missing: Vec<String>,
    /// The host config that kernel command line or SMBIOS name.
    host: Option<HostKey>,
    /// How it is left.
    leaving: Leaving,
    /// What the TPM remembers, from when it was asked.
    nv: NvMemory,
    attester: Attester,
    seams: Seams,
}

impl<'a> Machine<'a> {
    /// In the netboot image: loads the drivers, sets the clock's floor and opens the TPM. Elsewhere: nothing.
    ///
    /// # Errors
    /// The kernel's; a driver that fails or a device without one is told, and no error.
    pub fn wake(place: &'a Place, tell: &'a Reporter, mut seams: Seams) -> Result<Self> {
        let measurer = seams.measurer.take();
        if *place != Place::Netboot {
            let clock = seams.clock.take();
            return Ok(Self::new(place, tell, measurer.unwrap_or_else(Measurer::off), clock, seams));
        }
        let report = tell.step("drivers", "Loading drivers", |_| drivers::load_all())?;
        for device in &report.undriven {
            tell.warn("drivers", &device.to_string());
        }
        for (module, reason) in &report.failed {
            tell.warn("drivers", &format!("module {module} was refused: {reason}"));
        }
        tell.tell(
            "drivers",
            "info",
            fields([("loaded", report.loaded.clone().into()), ("settled", report.settled.into())]),
        );
        // PCI base class 01: mass storage.
        let storage = report.undriven.iter().filter(|device| device.class >> 16 == 0x01);
        let mut missing: Vec<String> = storage.map(ToString::to_string).collect();
        if !report.settled {
            missing.push(format!("devices had not settled in {} s", report.elapsed.as_secs()));
        }
        let clock = tell.step("clock", "Setting the clock's floor", |_| Clock::start())?;
        if let Some(text) = clock.local().complaint() {
            tell.warn("clock", &text);
        }
        let measurer = measurer.unwrap_or_else(Measurer::start);
        Ok(Self { missing, ..Self::new(place, tell, measurer, Some(clock), seams) })
    }

    /// One of which nothing is known yet.
    fn new(place: &'a Place, tell: &'a Reporter, measurer: Measurer, clock: Option<Clock>, seams: Seams) -> Self {
        let (network, missing, host) = (None, Vec::new(), None);
        let (leaving, nv, attester) = (Leaving::default(), NvMemory::default(), Attester::default());
        Self { place, tell, measurer, network, clock, missing, host, leaving, nv, attester, seams }
    }

    /// Measures an input right after it was loaded and before it is parsed, and tells so.
    ///
    /// # Errors
    /// The TPM failed and the host config requires one.
    pub fn measure(&mut self, what: &str, bytes: &[u8]) -> Result<()> {
        measure(&mut self.measurer, self.tell, what, bytes)
    }

    /// Whether inputs are measured, as far as nothing has failed.
    #[must_use]
    pub fn measures(&self) -> bool {
        !self.measurer.banks().is_empty()
    }

    /// Applies the host config's rule for the TPM. It is not about the TPM of a running system, which an ordinary command leaves
    /// alone.
    ///
    /// # Errors
    /// A TPM is required, and there is none or it failed.
    pub fn decide_measuring(&mut self, host: &Host) -> Result<()> {
        let left_alone = !self.is_netboot() && self.measurer.is_off();
        let decision = self.measurer.decide(if left_alone { TpmPolicy::IfPresent } else { host.tpm })?;
        match self.measurer.complaint() {
            Some(text) => self.tell.warn("tpm", &text),
            None => self.tell.say(&format!("TPM: {}", decision.text)),
        }
        self.tell.tell(
            "tpm",
            "info",
            fields([("measuring", decision.measuring.into()), ("text", decision.text.into())]),
        );
        Ok(())
    }

    /// The measurement log.
    #[must_use]
    pub fn event_log(&self) -> &str {
        self.measurer.log()
    }

    /// In the netboot image: brings the network up, and hears what settings it has. Then starts reporting, where there is a URL
    /// for it.
    ///
    /// # Errors
    /// No link or no address in time, or nothing names the repository.
    pub async fn network(&mut self, discovery: &mut Discovery, progress: &Progress) -> Result<Resolver> {
        let resolver = match self.place {
            Place::Netboot => self.links_up(discovery, progress).await?,
            Place::Ordinary { .. } => Resolver::system()?,
        };
        let site = discovery.site();
        if let Some(url) = &site.report_url {
            let poster =
                Poster::new(url, access(site)?, resolver.clone()).context("reading report_url of the site config")?;
            self.tell.outbox().start(poster);
        }
        Ok(resolver)
    }

    /// All links in parallel, until one leads to the repository; the network lives as long as the machine.
    async fn links_up(&mut self, discovery: &mut Discovery, progress: &Progress) -> Result<Resolver> {
        let timeout = Duration::from_secs(discovery.site().network_timeout.into());
        let (tell, progress) = (self.tell.clone(), progress.clone());
        let say = Arc::new(move |text: String| {
            tell.say(&text);
            progress.waits_for(text);
        });
        let (tell, measurer, mut listener) = (self.tell, &mut self.measurer, Listener::default());
        let host = |sayings: &[Saying]| {
            let mut measure = |what: &str, bytes: &[u8]| measure(measurer, tell, what, bytes);
            listener.take(sayings, discovery, &mut measure, &|text| tell.say(text))?;
            let Some(host) = discovery::host(discovery)? else { return Ok(None) };
            // With a proxy on the way it is the proxy that must be reached.
            Ok(Some(access(discovery.site())?.next_host(&host).to_owned()))
        };
        // The wait is one with an end, of which nothing more may be heard until then.
        tell.waits().until(Instant::now() + timeout, "waiting for a network");
        let network = net::up(Which::Devices, timeout, host, say).await;
        tell.waits().over();
        let network = network?;
        let addresses = network.describe();
        self.tell.say(&format!("network: {}", addresses.join("; ")));
        self.tell.tell("network", "info", fields([("links", addresses.into())]));
        let resolver = network.resolver();
        self.network = Some(network);
        Ok(resolver)
    }

    /// The repository.
    ///
    /// # Errors
    /// The URL, or another thing that the site config has of servers, cannot be used.
    pub fn repository(&self, site: &Site, resolver: &Resolver) -> Result<Arc<dyn Source>> {
        Ok(match self.place {
            Place::Ordinary { directory: Some(directory), .. } => Arc::new(DirectorySource::new(directory)),
            _ => {
                let limits = self.seams.limits.of_site(site);
                let url = repository(site).code(Code::Discovery, || "looking for the repository".to_owned())?;
                let source = HttpsSource::with_limits(url, access(site)?, resolver.clone(), limits)?;
                Arc::new(source.telling(self.tell.waits()))
            }
        })
    }

    /// Where payloads come from: the repository first, then the mirrors of the site config. A directory has none.
    ///
    /// # Errors
    /// The URL of a mirror, or another thing that the site config has of servers, cannot be used.
    pub fn mirrors(&self, repository: Arc<dyn Source>, site: &Site, resolver: &Resolver) -> Result<Mirrors> {
        let mut list = vec![repository];
        if !matches!(self.place, Place::Ordinary { directory: Some(_), .. }) {
            let (access, limits) = (access(site)?, self.seams.limits.of_site(site));
            for url in &site.mirrors {
                list.push(Arc::new(HttpsSource::mirror(url, access.clone(), resolver.clone(), limits)?));
            }
        }
        Ok(Mirrors::new(list).with_connections(site.connections).telling(self.tell))
    }

    /// Prepares to leave as the host config says. With `kexec` the installed kernel is measured and loaded; where this machine's
    /// kernel refuses it, the ending is a reboot, which starts the same OS from the disk.
    ///
    /// # Errors
    /// [`Code::DiskIo`]: the UKI on the disk is not what was written. [`Code::Tpm`]: the TPM failed, and the host config requires
    /// one.
    pub fn prepare_handoff(
        &mut self,
        esp: &Esp,
        boot: &Boot,
        line: &CommandLine,
        credentials: &[Sealed],
        signatures: &Signatures,
        host: &Host,
    ) -> Result<Ending> {
        match host.handoff {
            HandoffMode::Reboot => Ok(Ending::Reboot),
            HandoffMode::Poweroff => Ok(Ending::Poweroff),
            HandoffMode::Kexec => self.load_kernel(esp, boot, line, &archive(credentials), signatures, host),
        }
    }

    /// Whether boot entry, kexec and power are ours.
    #[must_use]
    pub fn is_netboot(&self) -> bool {
        *self.place == Place::Netboot
    }
}

/// Measures, and tells it.
fn measure(measurer: &mut Measurer, tell: &Reporter, what: &str, bytes: &[u8]) -> Result<()> {
    let measurement = measurer.measure(PcrIndex::Installer, what, bytes)?;
    tell_measured(measurer, tell, &measurement);
    Ok(())
}

/// Tells of a measurement, and once to a person that there are no more.
fn tell_measured(measurer: &mut Measurer, tell: &Reporter, measurement: &Measurement) {
    tell.tell("tpm", "measured", measurement.fields());
    if let Some(text) = measurer.complaint() {
        tell.warn("tpm", &text);
    }
}

/// The way to servers that the site config has.
fn access(site: &Site) -> Result<Access> {
    Access::of_site(site).code(Code::SiteConfig, || "using the site config".to_owned())
}
