//! What the installed OS proves of what was measured. A script runs in it, with files that the host puts on a disk of their own;
//! what it finds comes back the same way, so that nothing is judged by what a console has let through.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_qemu::{Builder, Disk, Machine, find_tool, minutes};
use metalstrap_release::digest::to_hex;
use serde_json::Value;

use crate::observe;
use crate::replay::{self, Bank};

/// Printed on the console when the script is done.
const DONE: &str = "METALSTRAP-PROVED";
/// What runs in the OS.
const SCRIPT: &str = include_str!("proof.sh");
/// The serial numbers of the disks, by which the OS finds them.
const EXCHANGE: &str = "EXCHANGE";
const LUKS: &str = "LUKS";
/// Bytes of those.
const EXCHANGE_BYTES: u64 = 16 << 20;
const LUKS_BYTES: u64 = 32 << 20;
/// Bytes of the block that the volume holds.
const BLOCK: usize = 4096;
/// PCRs that the logs have to account for: the firmware's, the kernel's EFI stub's, the installer's and systemd's, the MOK's.
const ACCOUNTED: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14];
/// Those that the installer extends.
const OURS: [u64; 3] = [11, 12, 13];

/// The phases of the OS's start at which systemd extends PCR 11, as systemd-measure names them.
pub const PHASES: [&str; 4] = [
    "enter-initrd",
    "enter-initrd:leave-initrd",
    "enter-initrd:leave-initrd:sysinit",
    "enter-initrd:leave-initrd:sysinit:ready",
];
/// What extends PCR 11 in each phase, and what is run right after it. The directory outlives the initrd.
const MEASURING: [(&str, &[(&str, &str)]); 3] = [
    ("systemd-pcrphase-initrd", &[("ExecStartPost", "0"), ("ExecStopPost", "1")]),
    ("systemd-pcrphase-sysinit", &[("ExecStartPost", "2")]),
    ("systemd-pcrphase", &[("ExecStartPost", "3")]),
];
/// Opens the volume in the initrd, once that is a phase of its own, and reads what it holds.
const INITRD_UNIT: &str = "[Unit]
DefaultDependencies=no
ConditionPathExists=/etc/initrd-release
After=systemd-udev-trigger.service systemd-pcrphase-initrd.service
Before=initrd.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=-/bin/sh -c 'udevadm settle; systemd-cryptsetup attach proof /dev/disk/by-id/virtio-LUKS - \
    luks,tpm2-device=auto,headless=yes && dd if=/dev/mapper/proof of=/run/block-in-initrd bs=4096 count=1 && \
    systemd-cryptsetup detach proof'
";

/// What the unit does.
const UNIT: &str = r#"
udevadm settle
mkdir /run/exchange
cd /run/exchange
tar -xf /dev/disk/by-id/virtio-EXCHANGE
sh ./script >said 2>&1
mv said out
tar -cf - out | dd of=/dev/disk/by-id/virtio-EXCHANGE bs=1M conv=fsync
printf '\nMETALSTRAP-PROVED\n' >/dev/ttyS0
"#;

/// The disks and files of a machine that proves.
#[derive(Debug)]
pub struct Proof {
    dir: PathBuf,
}

/// What one boot of the OS has left.
#[derive(Debug)]
pub struct Findings {
    dir: PathBuf,
    /// SHA-256 bank of PCR 11 as the OS reads it in each of [`PHASES`].
    pub pcr11: [String; 4],
    /// The TPM has opened the volume, at the last of these values and not at another.
    pub luks_unlocked: bool,
    /// And in the initrd, which the boot that enrolls it cannot.
    pub luks_unlocked_in_initrd: bool,
}

impl Proof {
    /// In a directory: a LUKS2 volume whose one key the first boot gets; `pcr_public` is the public half (PEM) of the key that signs
    /// policies for PCR 11.
    ///
    /// # Errors
    /// cryptsetup is missing or fails, or a file cannot be written.
    pub fn new(dir: &Path, pcr_public: &Path) -> Result<Self> {
        let making = || format!("making the proof in {}", dir.display());
        fs::create_dir_all(dir).with_context(making)?;
        let dir = fs::canonicalize(dir).with_context(making)?;
        let proof = Self { dir };
        fs::copy(pcr_public, proof.path("pcr.pub")).with_context(making)?;
        let mut random = [0; BLOCK];
        let mut urandom = fs::File::open("/dev/urandom").with_context(making)?;
        std::io::Read::read_exact(&mut urandom, &mut random).with_context(making)?;
        fs::write(proof.path("known"), random).with_context(making)?;
        fs::write(proof.path("key"), to_hex(random.get(..16).unwrap_or_default())).with_context(making)?;
        let luks = fs::File::create(proof.path("luks.raw")).with_context(making)?;
        luks.set_len(LUKS_BYTES).with_context(making)?;
        let mut format = Command::new(find_tool("cryptsetup")?);
        format.args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations"]);
        format.args(["1000", "--key-file"]).arg(proof.path("key")).arg(proof.path("luks.raw"));
        run(&mut format)?;
        Ok(proof)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The disks and the unit for a machine, which it keeps over power cycles.
    #[must_use]
    pub fn equip(&self, builder: Builder) -> Builder {
        let disk = |bytes, serial, file| Disk::virtio(bytes).serial(serial).file(&self.path(file));
        let builder = builder.disk(disk(EXCHANGE_BYTES, EXCHANGE, "exchange.raw"));
        let builder = builder.disk(disk(LUKS_BYTES, LUKS, "luks.raw"));
        let unit = observe::unit("Prove what was measured", "", UNIT);
        let ordered = unit.replacen("\n[Service]", AFTER, 1);
        assert!(ordered != unit, "the unit has no section [Service] on a line of its own: {unit}");
        let builder = builder.credential_unit("metalstrap-prove", &ordered);
        let opening = "systemd.extra-unit.metalstrap-prove-in-initrd.service";
        let wants = "[Unit]\nWants=metalstrap-prove-in-initrd.service\n";
        let builder = builder
            .credential(opening, INITRD_UNIT.as_bytes())
            .credential("systemd.unit-dropin.initrd.target~metalstrap-prove", wants.as_bytes());
        MEASURING.iter().fold(builder, |builder, (unit, after)| {
            let reads = after.iter().map(|(when, number)| {
                format!("{when}=/bin/sh -c 'cat /sys/class/tpm/tpm0/pcr-sha256/11 >/run/pcr11-at-{number}'\n")
            });
            let drop_in = format!("[Service]\n{}", reads.collect::<String>());
            builder.credential(&format!("systemd.unit-dropin.{unit}.service~metalstrap-prove"), drop_in.as_bytes())
        })
    }

    /// Puts the script on the disk, with these files and, for the first boot, what the volume is enrolled with. The machine must
    /// be off.
    ///
    /// # Errors
    /// A file cannot be written, or tar fails.
    pub fn prepare(&self, is_first: bool, files: &[(&str, Vec<u8>)]) -> Result<()> {
        let staged = self.path("in");
        let staging = || format!("preparing {}", staged.display());
        if staged.exists() {
            fs::remove_dir_all(&staged).with_context(staging)?;
        }
        fs::create_dir(&staged).with_context(staging)?;
        fs::write(staged.join("script"), SCRIPT).with_context(staging)?;
        for name in ["key", "known", "pcr.pub"].into_iter().filter(|_| is_first) {
            fs::copy(self.path(name), staged.join(name)).with_context(staging)?;
        }
        for (name, content) in files {
            fs::write(staged.join(name), content).with_context(staging)?;
        }
        let tar = run(Command::new("tar").args(["-cf", "-", "-C"]).arg(&staged).arg("."))?;
        let mut disk = fs::File::create(self.path("exchange.raw")).with_context(staging)?;
        disk.write_all(&tar).with_context(staging)?;
        disk.set_len(EXCHANGE_BYTES).with_context(staging)
    }

    /// Waits until the OS is done, and reads what it has left, which stays in a directory `name`.
    ///
    /// # Errors
    /// It does not get there in time, or left something else.
    pub fn findings(&self, machine: &Machine<'_>, name: &str) -> Result<Findings> {
        machine.serial().wait_for(DONE, minutes(15))?;
        let dir = self.path(name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        run(Command::new("tar").arg("-xf").arg(self.path("exchange.raw")).arg("-C").arg(&dir))?;
        let dir = dir.join("out");
        let pcr11 = at_each_phase(&dir)?;
        let known = fs::read(self.path("known")).context("reading what the volume holds")?;
        let holds = |block: &str| fs::read(dir.join(block)).is_ok_and(|found| found == known);
        let luks_unlocked = holds("block") && !dir.join("block-at-another-value").exists();
        let luks_unlocked_in_initrd = holds("block-in-initrd");
        Ok(Findings { pcr11, luks_unlocked, luks_unlocked_in_initrd, dir })
    }
}

/// What the OS says of the copies of the logs: their modes and owner, and that of their directory; the disk's file system.
const MODES_ON_DISK: &str = "700 root .\n400 root binary_bios_measurements\n600 root tpm2-measure.log\n";
const FILESYSTEM_ON_DISK: &str = "ext4\n";

/// Goes into the unit before its service: its phase is measured, the logs are copied, and the kexec confirmed, after which the plug
/// may be pulled.
const AFTER: &str =
    "\nAfter=metalstrap-confirm.service metalstrap-event-log-copy.service systemd-pcrphase.service\n[Service]";

impl Findings {
    /// A file that the OS has left, as text.
    ///
    /// # Errors
    /// It is not there.
    pub fn text(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.dir.join(name)).with_context(|| format!("reading {name} of {}", self.dir.display()))
    }

    /// The PCRs that hold something that the logs do not account for in a bank, by an independent replay of both: the firmware's as
    /// the installer has handed it over. Says what they say instead. The TPM has all banks, and they are active.
    ///
    /// # Errors
    /// A log or a value is missing, or cannot be read.
    pub fn unaccounted(&self) -> Result<Vec<String>> {
        let handed = self.dir.join("firmware-handed");
        let firmware = fs::read(&handed).with_context(|| format!("reading {}", handed.display()))?;
        let records = self.text("userspace")?;
        let mut problems = Vec::new();
        for (bank, number) in Bank::ALL.into_iter().flat_map(|bank| ACCOUNTED.map(|number| (bank, number))) {
            let value = pcr(&self.dir, bank, number)?;
            let (replayed, events) = replay::both(bank, &firmware, &records, number.into())?;
            let is_ours = OURS.contains(&u64::from(number));
            ensure!(events > 0 || !is_ours, "the logs have no event for PCR {number}");
            if replayed != value {
                let bank = bank.name();
                problems.push(format!(
                    "PCR {number} of {bank} is {value}, but the logs, with {events} events for it, say {replayed}"
                ));
            }
        }
        Ok(problems)
    }

    /// The copies of both logs on the OS's disk: the userspace one, and the firmware's.
    ///
    /// # Errors
    /// There are none, or others may read them.
    pub fn copies(&self) -> Result<(String, Vec<u8>)> {
        let (modes, filesystem) = (self.text("modes-on-disk")?, self.text("filesystem-on-disk")?);
        ensure!(modes == MODES_ON_DISK, "the copies of the logs have other modes: {modes:?}");
        ensure!(filesystem == FILESYSTEM_ON_DISK, "the copies of the logs are on {filesystem:?}");
        let firmware = self.dir.join("firmware-on-disk");
        let firmware = fs::read(&firmware).with_context(|| format!("reading {}", firmware.display()))?;
        Ok((self.text("userspace-on-disk")?, firmware))
    }

    /// In a boot that the logs were handed over to: that the copies are these, up to what systemd has measured since.
    ///
    /// # Errors
    /// They are others, or not there.
    pub fn check_copies(&self) -> Result<()> {
        let (userspace, firmware) = self.copies()?;
        let (whole, handed) = (self.text("userspace")?, self.dir.join("firmware-handed"));
        let handed = fs::read(&handed).with_context(|| format!("reading {}", handed.display()))?;
        let of = self.dir.display();
        ensure!(whole.starts_with(&userspace), "{of}: the userspace log does not begin with its copy on the disk");
        ensure!(handed == firmware, "{of}: the copy of the firmware's log is another one");
        // The last thing that the installer measures.
        let last = userspace.lines().next_back().unwrap_or_default();
        ensure!(last.contains("\"event-log-importer\""), "{of}: the copy on the disk ends with {last:?}");
        Ok(())
    }

    /// What systemd-pcrlock finds wrong with the PCRs that the installer extends: a value that its log does not lead to, or a record
    /// whose text is not what was measured.
    ///
    /// # Errors
    /// It has failed, or says something else.
    pub fn pcrlock(&self) -> Result<Vec<String>> {
        let text = self.text("pcrlock")?;
        let said: Value = serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        let list = |name: &str| said.get(name).and_then(Value::as_array).with_context(|| format!("finding {name}"));
        let is_ours = |entry: &&Value| entry.get("pcr").and_then(Value::as_u64).is_some_and(|pcr| OURS.contains(&pcr));
        let (pcrs, records) = (list("pcrs")?, list("log")?);
        ensure!(pcrs.iter().filter(is_ours).count() == OURS.len(), "systemd-pcrlock leaves PCRs out: {pcrs:?}");
        ensure!(records.iter().any(|record| is_ours(&record)), "systemd-pcrlock has no records of the installer");
        let mismatches =
            pcrs.iter().filter(is_ours).filter(|pcr| pcr.get("hashMatchesEventLog") != Some(&Value::Bool(true)));
        // The one column with a yes or no says whether the text of a record is what was measured.
        let is_false = |record: &&Value| {
            record.as_object().is_some_and(|fields| fields.values().any(|value| *value == Value::Bool(false)))
        };
        let bad = records.iter().filter(is_ours).filter(is_false);
        Ok(mismatches.chain(bad).map(Value::to_string).collect())
    }
}

/// PCR 11 as the OS has read it in each of [`PHASES`]; in the last of them, when all is up, it still has that value.
fn at_each_phase(dir: &Path) -> Result<[String; 4]> {
    let read = |number: usize| {
        let path = dir.join(format!("pcr11-at-{number}"));
        let value = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        anyhow::Ok(value.trim().to_ascii_lowercase())
    };
    let values = [read(0)?, read(1)?, read(2)?, read(3)?];
    let now = pcr(dir, Bank::Sha256, 11)?;
    ensure!(values.last() == Some(&now), "PCR 11 is {now} when all is up, and was {values:?} in the phases");
    Ok(values)
}

/// A PCR as the OS has read it.
fn pcr(dir: &Path, bank: Bank, number: u32) -> Result<String> {
    let pcrs = fs::read_to_string(dir.join("pcrs")).with_context(|| format!("reading pcrs of {}", dir.display()))?;
    let bank = bank.name();
    let value = pcrs.lines().find_map(|line| line.strip_prefix(&format!("{bank} {number} ")));
    let value = value.with_context(|| format!("finding PCR {number} of {bank}"))?;
    Ok(value.to_owned())
}

/// Runs a program; what it prints.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
