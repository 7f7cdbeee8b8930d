//! The run: preparation, installation, first boot, cold boot.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use metalstrap_qemu::{Builder, Endpoint, Follow, Lab, Machine, Swtpm, minutes};

use super::Args;
use super::disk::DiskSpec;
use super::interrupt::Interrupt;
use super::logs::Logs;
use super::outcome::{Kind, Outcome, Phase};
use super::telling::{self, Ending};
use super::watch::{Seen, Stop, Watch, expecting};

/// The machine's name, and that of its directory.
pub const MACHINE: &str = "machine";
/// How often a machine may be reset before the installer runs: as on hardware, it then boots from the network again. On a
/// busy host without KVM, Linux now and then misses its timer ("IO-APIC + timer doesn't work!") and starts anew.
const RESETS: usize = 2;
/// How long the machine may take to switch itself off once the installer has said that it will.
const POWER_OFF: Duration = minutes(3);

/// A run after its preparation.
struct Run<'a> {
    args: &'a Args,
    watch: Watch<'a>,
    interrupt: &'a Interrupt,
    outcome: &'a mut Outcome,
    logs: &'a Logs,
    began: Instant,
}

impl Args {
    /// Carries the run out. What came of it is in `outcome`, also when this returns an error.
    pub fn provision(
        &self,
        endpoint: Endpoint,
        logs: &Logs,
        interrupt: &Interrupt,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let began = Instant::now();
        let watch = Watch::new(began + self.timeout(), interrupt);
        let mut run = Run { args: self, watch, interrupt, outcome, logs, began };
        run.outcome.bytes.netboot_uki = fs::metadata(&self.netboot).ok().map(|file| file.len());
        let lab = self.lab(endpoint, logs)?;
        let mut machine = self.machine(logs)?.start(&lab)?;
        run.say("switched on; it boots the netboot UKI");
        let mut seen = Seen::default();
        let finished = run.installation(&mut machine, &mut seen);
        logs.add_events(machine.serial())?;
        logs.add_monitor(Phase::Installation, &machine)?;
        run.count(&machine, &lab)?;
        let Some(at) = finished? else { return Ok(()) };
        run.boots(machine, seen, at)
    }

    fn machine(&self, logs: &Logs) -> Result<Builder> {
        let mut machine = Machine::builder(MACHINE).memory(self.memory).cpus(self.cpus).reboots(true);
        machine = machine.identity(self.smbios_uuid.as_deref(), self.serial_number.as_deref());
        let standard = [DiskSpec::default()];
        let disks = if self.disks.is_empty() { standard.as_slice() } else { &self.disks };
        machine = disks.iter().map(DiskSpec::disk).fold(machine, Builder::disk);
        if self.has_tpm() {
            machine = machine.tpm(&Swtpm::manufacture(&logs.path().join("tpm"), true)?);
        }
        if let Some(certificate) = &self.secure_boot {
            machine = machine.secure_boot(certificate);
        }
        for (name, file) in &self.credentials {
            let value = fs::read(file).with_context(|| format!("reading the credential {}", file.display()))?;
            machine = machine.credential(name, &value);
        }
        let over_http = self.network().has_http_boot();
        Ok(if over_http { machine.firmware_http_boot() } else { machine.usb_stick(&self.netboot) })
    }
}

impl Run<'_> {
    /// Waits for the end of the installation; returns when it finished, counted from power-on, if it did.
    fn installation(&mut self, machine: &mut Machine<'_>, seen: &mut Seen) -> Result<Option<Duration>> {
        self.outcome.phase = Phase::Installation;
        let _follow = Follow::start(machine.serial(), self.args.console);
        let mut ended = self.watch.wait(machine, seen, Ending::find)?;
        while ended == Err(Stop::Reset) && seen.resets < RESETS && machine.serial().events().is_empty() {
            seen.resets += 1;
            self.outcome.resets_before_installer = seen.resets;
            self.say("the machine was reset before the installer ran: it starts again");
            ended = self.watch.wait(machine, seen, Ending::find)?;
        }
        match ended {
            Ok(ending) => {
                ending.tell(self.outcome);
                let Ending::Finished(at, _) = ending else {
                    self.outcome.kind = Kind::Failed;
                    return Ok(None);
                };
                Ok(Some(at))
            }
            Err(stop) => {
                self.outcome.stopped(stop, "ended its installation");
                Ok(None)
            }
        }
    }

    /// Times and bytes of the installation, as far as it went.
    fn count(&mut self, machine: &Machine<'_>, lab: &Lab) -> Result<()> {
        telling::times(&machine.serial().events(), &mut self.outcome.seconds);
        if self.args.repository.is_some() {
            let requests = lab.requests()?;
            let payloads = requests.iter().filter(|request| request.path.contains("/payloads/"));
            self.outcome.bytes.payload_fetched = Some(payloads.map(|request| request.bytes).sum());
        }
        Ok(())
    }

    /// The installed OS: after the handoff, and from its own disk.
    fn boots(&mut self, machine: Machine<'_>, mut seen: Seen, finished: Duration) -> Result<()> {
        let Some(text) = self.args.expect.as_deref() else {
            self.say("installed");
            self.outcome.kind = Kind::Installed;
            return Ok(());
        };
        self.outcome.phase = Phase::FirstBoot;
        let handoff = self.outcome.handoff.clone().unwrap_or_default();
        self.say(&format!("installed; handoff by {handoff}"));
        let (mut machine, since) = match handoff.as_str() {
            "poweroff" => {
                let machine = self.switched_off(machine)?;
                seen = Seen::default();
                (machine, Duration::ZERO)
            }
            _ => (machine, finished),
        };
        seen.resets += usize::from(handoff == "reboot");
        let Some((at, line)) = self.text(&mut machine, &mut seen, text)? else { return Ok(()) };
        let seconds = at.saturating_sub(since).as_secs_f64();
        self.outcome.seconds.handoff_to_text = Some(seconds);
        self.outcome.said.first_boot = Some(line);
        self.say(&format!("the installed OS said {text:?}, {seconds:.1} s after the handoff"));
        if self.args.boot_again {
            return self.cold_boot(machine, text);
        }
        self.outcome.kind = Kind::Installed;
        Ok(())
    }

    /// Waits until the machine has switched itself off, and switches it on again.
    fn switched_off<'lab>(&self, mut machine: Machine<'lab>) -> Result<Machine<'lab>> {
        machine.wait_exit(POWER_OFF).context("waiting for the machine to switch itself off")?;
        machine.power_cycle(Builder::firmware_boot)
    }

    fn cold_boot(&mut self, machine: Machine<'_>, text: &str) -> Result<()> {
        self.outcome.phase = Phase::ColdBoot;
        self.say("pulling the plug and switching on again: it boots from its own disk");
        let mut machine = machine.power_cycle(Builder::firmware_boot)?;
        let Some((at, line)) = self.text(&mut machine, &mut Seen::default(), text)? else { return Ok(()) };
        let seconds = at.as_secs_f64();
        self.outcome.seconds.cold_boot_to_text = Some(seconds);
        self.outcome.said.cold_boot = Some(line);
        self.say(&format!("the same OS said {text:?} from its own disk, {seconds:.1} s after power-on"));
        self.outcome.kind = Kind::Installed;
        Ok(())
    }

    /// Waits for the line with `text`.
    fn text(&mut self, machine: &mut Machine<'_>, seen: &mut Seen, text: &str) -> Result<Option<(Duration, String)>> {
        let _follow = self.args.console.then(|| Follow::from_now(machine.serial(), true));
        let found = self.watch.wait(machine, seen, expecting(text));
        self.logs.add_monitor(self.outcome.phase, machine)?;
        match found? {
            Ok(found) => Ok(Some(found)),
            Err(stop) => {
                self.outcome.stopped(stop, &format!("said {text:?}"));
                Ok(None)
            }
        }
    }

    fn say(&self, text: &str) {
        if self.interrupt.signal().is_none() {
            eprintln!("==> {:6.1} s {text}", self.began.elapsed().as_secs_f64());
        }
    }
}
