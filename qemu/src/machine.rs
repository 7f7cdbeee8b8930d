//! A running machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::arguments::{self, Port};
use crate::builder::Builder;
use crate::lab::Lab;
use crate::process::Process;
use crate::qmp::Monitor;
use crate::serial::Serial;
use crate::{socket, tool};

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest, or its watchdog, reset the machine.
    Reset,
    /// Somebody asked QEMU to end.
    Stopped,
    /// QEMU itself ended in another way: its exit status and what it said.
    Died(String),
}

/// A machine that is on, or has ended by itself. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Machine<'lab> {
    // Dropped in this order: QEMU first, so that its TPM still answers until the end.
    qemu: Process,
    tpm: Option<Process>,
    monitor: Monitor,
    serial: Serial,
    ports: Ports<'lab>,
    builder: Builder,
    dir: PathBuf,
    power_on: Instant,
}

/// The taps of a machine, taken away with it.
#[derive(Debug)]
struct Ports<'lab> {
    lab: &'lab Lab,
    ports: Vec<Port>,
}

impl<'lab> Ports<'lab> {
    fn new(lab: &'lab Lab, count: usize) -> Result<Self> {
        let mut ports = Self { lab, ports: Vec::new() };
        for _ in 0..count {
            let number = lab.next_port();
            let mac = format!("52:54:00:77:00:{number:02x}");
            let tap = lab.has_network().then(|| format!("tap{number}"));
            if let Some(name) = &tap {
                lab.namespace().add_tap(name)?;
            }
            ports.ports.push(Port { tap, mac });
        }
        Ok(ports)
    }
}

impl Drop for Ports<'_> {
    fn drop(&mut self) {
        for tap in self.ports.iter().filter_map(|port| port.tap.as_ref()) {
            if let Err(error) = self.lab.namespace().remove_tap(tap) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl<'lab> Machine<'lab> {
    /// A machine `name`, of which there is one in a lab: its files are in a directory of that name.
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }

    pub(crate) fn power_on(builder: Builder, lab: &'lab Lab) -> Result<Self> {
        let ports = Ports::new(lab, builder.network_ports)?;
        Self::switch_on(builder, ports)
    }

    fn switch_on(builder: Builder, ports: Ports<'lab>) -> Result<Self> {
        let name = builder.name.clone();
        let starting = || format!("starting the machine {name}");
        let dir = ports.lab.dir().join(&name);
        fs::create_dir_all(&dir).with_context(starting)?;
        let namespace = ports.lab.namespace();
        let tpm = match &builder.tpm {
            Some(tpm) => {
                let link = dir.join(arguments::TPM);
                fs::remove_file(&link)
                    .or_else(|e| if link.is_symlink() { Err(e) } else { Ok(()) })
                    .with_context(starting)?;
                symlink(tpm.dir(), link).with_context(starting)?;
                Some(tpm.power_on(namespace).with_context(starting)?)
            }
            None => None,
        };
        let listener = socket::bind(&dir, arguments::MONITOR).with_context(starting)?;
        let mut command = namespace.command(tool::find("qemu-system-x86_64")?);
        command.args(arguments::of(&builder, &dir, &ports.ports).with_context(starting)?);
        command.current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let power_on = Instant::now();
        let mut qemu = Process::start("qemu", command, &dir.join("qemu.log")).with_context(starting)?;
        let (input, output) = qemu.take_pipes().with_context(starting)?;
        let serial = Serial::listen(&name, output, input, &dir.join("serial.log"), power_on)?;
        let monitor = Monitor::accept(&listener, &mut qemu).with_context(starting)?;
        Ok(Self { qemu, tpm, monitor, serial, ports, builder, dir, power_on })
    }

    /// Its console.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The directory of its logs, disks and firmware variables.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of its disk `number`, counted from 0.
    #[must_use]
    pub fn disk(&self, number: usize) -> Option<PathBuf> {
        self.builder.disks.get(number).map(|disk| disk.path(&self.dir, number))
    }

    /// The address of its Ethernet port `number`.
    #[must_use]
    pub fn mac(&self, number: usize) -> Option<&str> {
        self.ports.ports.get(number).map(|port| port.mac.as_str())
    }

    /// Since when it is on.
    #[must_use]
    pub fn power_on_time(&self) -> Instant {
        self.power_on
    }

    /// QEMU's process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process_id(&mut self) -> Result<i32> {
        self.qemu.id().map(nix::unistd::Pid::as_raw)
    }

    /// Waits until it ends by itself, and says why.
    ///
    /// # Errors
    /// When it is still on after `timeout`; it stays on.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<Exit> {
        let status =
            self.qemu.wait(timeout).with_context(|| format!("waiting for the machine {}", self.builder.name))?;
        self.monitor.wait_closed();
        self.serial.wait_closed();
        let shutdown = self
            .monitor
            .events()
            .into_iter()
            .rev()
            .find(|event| event.get("event").is_some_and(|kind| kind == "SHUTDOWN"));
        let reason = shutdown.as_ref().and_then(|event| event.pointer("/data/reason")?.as_str());
        Ok(match reason {
            Some("guest-shutdown") if status.success() => Exit::PoweredOff,
            Some("guest-reset") if status.success() => Exit::Reset,
            Some("host-qmp-quit") if status.success() => Exit::Stopped,
            _ => Exit::Died(format!("{status}: {}", self.qemu.log().trim())),
        })
    }

    /// Why it ended by itself; None while it is on.
    ///
    /// # Errors
    /// When it cannot be known.
    pub fn ended(&mut self) -> Result<Option<Exit>> {
        match self.qemu.ended()? {
            Some(_) => self.wait_exit(Duration::ZERO).map(Some),
            None => Ok(None),
        }
    }

    /// Events of QEMU's monitor so far: resets, watchdog expiries, the end.
    #[must_use]
    pub fn monitor_events(&self) -> Vec<Value> {
        self.monitor.events()
    }

    /// When QEMU's monitor told the events `kind` so far, by the host's clock.
    #[must_use]
    pub fn monitor_times(&self, kind: &str) -> Vec<SystemTime> {
        let events = self.monitor.events().into_iter().filter(|event| event.get("event").is_some_and(|it| it == kind));
        let time = |event: Value| {
            let part = |name: &str| event.pointer(&format!("/timestamp/{name}")).and_then(Value::as_u64);
            let (seconds, rest) = (Duration::from_secs(part("seconds")?), Duration::from_micros(part("microseconds")?));
            SystemTime::UNIX_EPOCH.checked_add(seconds)?.checked_add(rest)
        };
        events.filter_map(time).collect()
    }

    /// Runs a command of QEMU's monitor.
    ///
    /// # Errors
    /// Its error.
    pub fn monitor(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.monitor.execute(command, arguments)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn reset(&mut self) -> Result<()> {
        self.monitor.execute("system_reset", &json!({})).map(|_| ())
    }

    /// Presses the power button, which the guest may act on.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn press_power_button(&mut self) -> Result<()> {
        self.monitor.execute("system_powerdown", &json!({})).map(|_| ())
    }

    /// Pulls the cable of Ethernet port `number`, or plugs it in again.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn plug_network(&mut self, number: usize, plugged: bool) -> Result<()> {
        let Some(port) = self.ports.ports.get(number) else { bail!("{} has no port {number}", self.builder.name) };
        if let Some(tap) = &port.tap {
            self.ports.lab.namespace().set_forwarding(tap, plugged)?;
        }
        self.monitor.execute("set_link", &json!({"name": format!("port{number}"), "up": plugged})).map(|_| ())
    }

    /// Pulls the plug. What the guest wrote to its disks is in their files.
    ///
    /// # Errors
    /// When QEMU does not end.
    pub fn power_off(&mut self) -> Result<()> {
        if self.qemu.ended()?.is_none() {
            self.qemu.kill().with_context(|| format!("switching the machine {} off", self.builder.name))?;
        }
        self.serial.wait_closed();
        if let Some(mut tpm) = self.tpm.take() {
            tpm.kill()?;
        }
        Ok(())
    }

    /// Pulls the plug and switches on again, with the same disks, TPM, firmware variables and ports; `change` may change
    /// the rest, such as from where it boots.
    ///
    /// # Errors
    /// As of power-off and start.
    pub fn power_cycle(mut self, change: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        self.power_off()?;
        let Self { builder, ports, .. } = self;
        Self::switch_on(change(builder), ports)
    }
}
