//! The demo: a blank machine boots over the network, installs an OS and kexecs into it; then the plug is pulled and it
//! boots the same OS from its own disk.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use metalstrap_qemu::{Disk, Event, Follow, Lab, Machine, Serial, Swtpm, minutes};
use serde_json::Value;

use crate::artifacts::{self, Flavour};
use crate::observe::{self, Observed};
use crate::outcome::{Boot, Bytes, Outcome, Pcr, Seconds};
use crate::release::{self, Target};
use crate::replay;

/// Memory of the machine, MiB.
const MEMORY: u32 = 1024;
/// Bytes of its disk.
const DISK: u64 = 4 << 30;
/// Its disk's serial number, which the site config selects it by.
const SERIAL: &str = "DEMO-1";

/// Runs the demo in an empty directory; `console` shows the guest's console instead of the phases.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(dir: &std::path::Path, console: bool) -> Result<Outcome> {
    let began = Instant::now();
    let say = |text: &str| say(began, text);
    say("publishing the release");
    let lab = Lab::new(&dir.join("lab"))?;
    let published = release::publish(Target::Debian, dir)?;
    lab.serve_repository(&published.repository)?;

    say("making the netboot image");
    let site = release::site(&lab, &published)?;
    let mut host = release::host(Target::Debian);
    host.disk.serial = Some(SERIAL.to_owned());
    host.tpm = metalstrap_release::host::TpmPolicy::Required;
    published.add_default_host(&host)?;
    let image = dir.join("netboot.efi");
    let sizes = artifacts::netboot_image(&site, Flavour::Cloud, "", &image)?;
    let generic = artifacts::netboot_image(&site, Flavour::Generic, "", &dir.join("netboot-generic.efi"))?;
    lab.serve_netboot(&image)?;

    say("switching on a blank machine: it boots over the network from its UEFI firmware");
    let tpm = Swtpm::manufacture(&dir.join("tpm"), true)?;
    let mut machine = Machine::builder("demo").memory(MEMORY).disk(Disk::nvme(DISK).serial(SERIAL)).tpm(&tpm);
    for (name, content) in observe::credentials() {
        machine = machine.credential(&name, &content);
    }
    let machine = machine.firmware_http_boot().start(&lab)?;
    let finished_at = {
        let _follow = Follow::start(machine.serial(), console);
        installation(machine.serial())?
    };
    say("installed; the machine jumps into the OS on its disk");
    let (kexec_boot, seen_at) = watched(machine.serial(), console)?;
    let jump = seconds_between(finished_at, seen_at);
    say(&format!("the installed OS has reached multi-user, {jump:.1} s after the last event of the installer"));
    let events = machine.serial().events();
    let fetched = payload_bytes(&lab)?;

    say("pulling the plug and switching on again: it boots from its own disk");
    let machine = machine.power_cycle(|builder| builder.firmware_boot())?;
    let (cold_boot, _) = watched(machine.serial(), console)?;
    let cold = machine.power_on_time().elapsed().as_secs_f64();
    say(&format!("the same OS has reached multi-user from its own disk, {cold:.1} s after power-on"));
    let finished = fields(&event(&events, "run", "finished")?.value)?;
    let outcome = Outcome {
        kexec_boot: Boot::from(&kexec_boot),
        cold_boot: Boot::from(&cold_boot),
        pcr13: Pcr {
            measured: kexec_boot.pcr13.clone(),
            replayed: replay::pcr_sha256(text(finished, "event_log")?, 13)?,
        },
        boot_entry: cold_boot.boot_entry.clone(),
        seconds: Seconds { handoff_to_multi_user: jump, ..times(&events)? },
        bytes: Bytes {
            installer: std::fs::metadata(artifacts::installer()?)?.len(),
            netboot_initrd: sizes.initrd,
            netboot_initrd_generic: generic.initrd,
            netboot_uki: sizes.uki,
            payload_fetched: fetched,
            image: number(finished, "image_bytes")?,
        },
        peak_rss_bytes: number(finished, "peak_rss_bytes")?,
        lowest_mem_available_bytes: number(finished, "lowest_mem_available_bytes")?,
    };
    check(&outcome, text(finished, "root_hash")?)?;
    for seen in [&kexec_boot, &cold_boot] {
        ensure!(seen.var == "ext4", "/var has the file system {:?}: the OS's systemd-repart did not make it", seen.var);
        ensure!(seen.cmdline.split_whitespace().any(|word| word == "gpt"), "`gpt` is not in {:?}", seen.cmdline);
    }
    Ok(outcome)
}

/// What makes the demo a failure, whatever else was seen.
fn check(outcome: &Outcome, root_hash: &str) -> Result<()> {
    for (name, boot) in [("kexec", &outcome.kexec_boot), ("cold", &outcome.cold_boot)] {
        ensure!(boot.multi_user, "the {name} boot did not reach multi-user.target");
        ensure!(boot.root_is_verity, "the root of the {name} boot is no dm-verity device");
        ensure!(boot.root_hash == root_hash, "the {name} boot has root hash {}, not {root_hash}", boot.root_hash);
    }
    let Pcr { measured, replayed } = &outcome.pcr13;
    ensure!(measured == replayed, "PCR 13 is {measured} in the installed OS, but its log replays to {replayed}");
    let title = format!("Linux ({})", Target::Debian.name());
    ensure!(outcome.boot_entry == title, "the cold boot came from the entry {:?}, not {title:?}", outcome.boot_entry);
    Ok(())
}

fn installation(serial: &Serial) -> Result<SystemTime> {
    let ended = |event: &Value| says(event, "run", "finished") || says(event, "run", "failed");
    let event = serial.wait_for_event("the end of the installation", minutes(15), ended)?;
    ensure!(says(&event.value, "run", "finished"), "the installation failed: {}", fields(&event.value)?);
    Ok(SystemTime::now())
}

/// Waits for what the OS says of itself; with `console`, the guest's console is shown meanwhile.
fn watched(serial: &Serial, console: bool) -> Result<(Observed, SystemTime)> {
    let _follow = console.then(|| Follow::from_now(serial, console));
    observation(serial)
}

fn observation(serial: &Serial) -> Result<(Observed, SystemTime)> {
    serial.wait_for(observe::MARK, minutes(10))?;
    let at = SystemTime::now();
    Ok((Observed::parse(&serial.wait_for("\n", minutes(1))?)?, at))
}

/// Bytes of payloads that the web server says it sent.
fn payload_bytes(lab: &Lab) -> Result<u64> {
    let requests = lab.requests()?;
    Ok(requests.iter().filter(|request| request.path.contains("/payloads/")).map(|request| request.bytes).sum())
}

/// The times that the events tell.
fn times(events: &[Event]) -> Result<Seconds> {
    let at = |step, state| event(events, step, state).and_then(|event| float(&event.value, "at"));
    let first = events.first().context("the installer told no event")?;
    let power_on_to_pid1 = first.at.as_secs_f64() - float(&first.value, "at")?;
    let tree = at("hash-tree", "started")?;
    let first_byte = float(fields(&event(events, "hash-tree", "done")?.value)?, "first_byte_seconds")?;
    Ok(Seconds {
        power_on_to_pid1,
        pid1_to_first_payload_byte: tree + first_byte,
        write: at("esp", "done")? - tree,
        handoff_to_multi_user: 0.0,
    })
}

fn event<'a>(events: &'a [Event], step: &str, state: &str) -> Result<&'a Event> {
    let found = events.iter().find(|event| says(&event.value, step, state));
    found.with_context(|| format!("the installer told no event `{step} {state}`"))
}

/// Whether an event is that of a step that reached a state.
fn says(event: &Value, step: &str, state: &str) -> bool {
    let is = |name, text| event.get(name).is_some_and(|value| value == text);
    is("step", step) && is("state", state)
}

fn fields(event: &Value) -> Result<&Value> {
    event.get("fields").with_context(|| format!("finding the fields of {event}"))
}

fn float(value: &Value, name: &str) -> Result<f64> {
    value.get(name).and_then(Value::as_f64).with_context(|| format!("finding the number {name} in {value}"))
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value.get(name).and_then(Value::as_u64).with_context(|| format!("finding the number {name} in {value}"))
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value.get(name).and_then(Value::as_str).with_context(|| format!("finding the text {name} in {value}"))
}

fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or(Duration::ZERO).as_secs_f64()
}

fn say(began: Instant, text: &str) {
    println!("==> {:6.1} s {text}", began.elapsed().as_secs_f64());
}
