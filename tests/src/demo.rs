//! The demo, as an operator would do it: keys, a signed release, a host config, a netboot image, and a machine that boots
//! it over the network, installs the OS and kexecs into it; then the plug is pulled and it boots from its own disk.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::artifacts;
use crate::observe::{self, MARK, Observed};
use crate::operator::{self, metalstrap, metalstrap_json};
use crate::outcome::{Boot, Bytes, Outcome, Pcr, Seconds};
use crate::release::{self, Target, VERSION};
use crate::replay;

/// Its disk, with the serial number that the host config selects it by.
const DISK: &str = "4G,nvme,serial=DEMO-1";
/// Where the machine finds the repository in its own network.
const URL: &str = "https://repo.test:8443";

/// Runs the demo in an empty directory; `console` shows the guest's console instead of the phases.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(dir: &Path, console: bool) -> Result<Outcome> {
    let began = Instant::now();
    let say = |text: &str| println!("==> {:6.1} s {text}", began.elapsed().as_secs_f64());
    say("an operator makes keys, publishes a signed release, and says what machines get");
    let published = release::publish(Target::Debian, dir)?;
    let (repository, keys) = (published.repository.as_os_str(), published.keys.as_os_str());
    let mut host: Vec<&OsStr> = words(&["host", "add", "default", "--release", Target::Debian.name(), VERSION]);
    host.extend(words(&["--disk-serial", "DEMO-1", "--tpm", "required", "--repository"]));
    host.extend([repository, "--keys".as_ref(), keys]);
    metalstrap(&host)?;

    say("the site: where the repository is, and whom to believe; from it the netboot image");
    let (tls, site) = (dir.join("tls"), dir.join("site.json"));
    metalstrap(&[&words(&["keygen", "--tls", "repo.test", "--keys"])[..], &[tls.as_os_str()]].concat())?;
    let mut words_of_site = words(&["site", "--repository-url", URL, "--report-url", "https://repo.test:8443/report"]);
    let ca = tls.join("ca.pem");
    words_of_site.extend(["--keys".as_ref(), keys, "--ca".as_ref(), ca.as_os_str()]);
    let printed = metalstrap(&words_of_site)?;
    std::fs::write(&site, printed).with_context(|| format!("writing {}", site.display()))?;
    let image = dir.join("netboot.efi");
    let sizes = netboot("kernels/cloud", &site, &image)?;
    let generic = netboot("kernels/generic", &site, &dir.join("netboot-generic.efi"))?;
    let verify: [&OsStr; 6] = [
        "verify".as_ref(),
        "--site".as_ref(),
        site.as_os_str(),
        "--repository".as_ref(),
        repository,
        "--deep".as_ref(),
    ];
    metalstrap_json(&verify)?;

    say("a blank machine is switched on: it boots over the network from its UEFI firmware");
    let vm = vm(dir, &image, repository, &tls, console)?;
    let told = metalstrap_json(&vm.iter().map(OsString::as_os_str).collect::<Vec<_>>())?;
    let outcome = outcome(&told, &sizes, &generic)?;
    say(&format!(
        "installed, started by kexec, and again from its own disk after the plug was pulled ({:.1} s after power-on)",
        outcome.seconds.cold_boot_to_multi_user
    ));
    Ok(outcome)
}

fn words<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().copied().map(OsStr::new).collect()
}

/// `metalstrap netboot` for a kernel package below `out/`.
fn netboot(kernel: &str, site: &Path, output: &Path) -> Result<Value> {
    let installer = artifacts::installer()?;
    let (kernel, tools) = (artifacts::built(kernel)?, artifacts::built("boot-tools")?);
    let cache = artifacts::out().join("cache/initrd");
    let options: [(&str, &Path); 6] = [
        ("--installer", &installer),
        ("--kernel-package", &kernel),
        ("--boot-tools", &tools),
        ("--cache", &cache),
        ("--site", site),
        ("--output", output),
    ];
    let options = options.iter().flat_map(|(name, path)| [OsStr::new(*name), path.as_os_str()]);
    let printed = metalstrap_json(&[OsStr::new("netboot")].into_iter().chain(options).collect::<Vec<_>>())?;
    printed.get("bytes").cloned().context("finding the bytes in what metalstrap netboot printed")
}

/// The words of `metalstrap vm`.
fn vm(dir: &Path, image: &Path, repository: &OsStr, tls: &Path, console: bool) -> Result<Vec<OsString>> {
    let mut words: Vec<OsString> =
        ["vm", "--expect", MARK.trim(), "--boot-again", "--disk", DISK].map(Into::into).into();
    let files: [(&str, PathBuf); 5] = [
        ("--netboot", image.to_owned()),
        ("--repository", repository.into()),
        ("--tls-certificate", tls.join("server.pem")),
        ("--tls-key", tls.join("server.key")),
        ("--logs", dir.join("vm")),
    ];
    words.extend(files.into_iter().flat_map(|(name, path)| [name.into(), path.into_os_string()]));
    for (name, content) in observe::credentials() {
        let file = dir.join(&name);
        std::fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
        words.extend(["--credential".into(), operator::assigned(&name, &file)]);
    }
    words.extend(console.then(|| "--console".into()));
    Ok(words)
}

/// What the run has shown, if it is what it should be.
fn outcome(told: &Value, sizes: &Value, generic: &Value) -> Result<Outcome> {
    let line = |boot: &str| -> Result<Observed> {
        let line = text(told, &format!("/said/{boot}"))?;
        Observed::parse(line.split_once(MARK).map_or(line, |(_, rest)| rest))
    };
    let (kexec_boot, cold_boot) = (line("first_boot")?, line("cold_boot")?);
    let outcome = Outcome {
        kexec_boot: Boot::from(&kexec_boot),
        cold_boot: Boot::from(&cold_boot),
        pcr13: Pcr { measured: kexec_boot.pcr13.clone(), replayed: replay::pcr_sha256(text(told, "/event_log")?, 13)? },
        boot_entry: cold_boot.boot_entry.clone(),
        seconds: Seconds {
            power_on_to_pid1: float(told, "/seconds/power_on_to_pid1")?,
            pid1_to_first_payload_byte: float(told, "/seconds/pid1_to_first_payload_byte")?,
            write: float(told, "/seconds/write")?,
            handoff_to_multi_user: float(told, "/seconds/handoff_to_text")?,
            cold_boot_to_multi_user: float(told, "/seconds/cold_boot_to_text")?,
        },
        bytes: Bytes {
            installer: number(sizes, "/installer")?,
            netboot_initrd: number(sizes, "/initrd")?,
            netboot_initrd_generic: number(generic, "/initrd")?,
            netboot_uki: number(sizes, "/uki")?,
            payload_fetched: number(told, "/bytes/payload_fetched")?,
            image: number(told, "/bytes/image")?,
        },
        peak_rss_bytes: number(told, "/peak_rss_bytes")?,
        lowest_mem_available_bytes: number(told, "/lowest_mem_available_bytes")?,
    };
    check(&outcome, text(told, "/root_hash")?)?;
    check_boot_manager(&kexec_boot, &cold_boot)?;
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

/// What efibootmgr has to show of an installation with the boot order `network-first`: after kexec our entry right behind the
/// one that the machine came from; after the cold boot as the one that it came from.
fn check_boot_manager(kexec: &Observed, cold: &Observed) -> Result<()> {
    let ours = cold.boot_current.as_str();
    for seen in [kexec, cold] {
        let (start, size) = seen.esp_place.split_once(' ').context("finding the place of the ESP")?;
        let (start, size): (u64, u64) = (start.parse()?, size.parse()?);
        let title = Target::Debian.name();
        let (esp, loader) = (&seen.esp, r"/File(\EFI\systemd\systemd-bootx64.efi)");
        let entry = format!("Boot{ours}* Linux ({title}) HD(1,GPT,{esp},{start:#x},{size:#x}){loader}");
        let wanted = [format!("BootCurrent: {}", seen.boot_current), entry];
        let order = seen.efibootmgr.iter().find_map(|line| line.strip_prefix("BootOrder: "));
        let order: Vec<&str> = order.context("finding the boot order")?.split(',').collect();
        let place = |number: &str| order.iter().position(|other| *other == number);
        let behind = place(&kexec.boot_current).zip(place(ours)).is_some_and(|(network, disk)| network + 1 == disk);
        ensure!(behind, "{ours} does not come right behind {} in {order:?}", kexec.boot_current);
        for line in wanted {
            ensure!(seen.efibootmgr.contains(&line), "efibootmgr does not say {line:?}: {:#?}", seen.efibootmgr);
        }
    }
    let next = cold.efibootmgr.iter().find(|line| line.starts_with("BootNext"));
    ensure!(next.is_none(), "the next boot is still {next:?} after it has happened");
    Ok(())
}

fn found<'a>(value: &'a Value, pointer: &str) -> Result<&'a Value> {
    value.pointer(pointer).with_context(|| format!("finding {pointer} in {value}"))
}

fn float(value: &Value, pointer: &str) -> Result<f64> {
    found(value, pointer)?.as_f64().with_context(|| format!("reading {pointer} of {value} as a number"))
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    found(value, pointer)?.as_u64().with_context(|| format!("reading {pointer} of {value} as a number"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    found(value, pointer)?.as_str().with_context(|| format!("reading {pointer} of {value} as text"))
}
