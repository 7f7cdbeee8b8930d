//! KVM where it really runs guests, else TCG.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::tool;
use crate::wait::{seconds, until};

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// By QEMU's translator: works everywhere, about ten times slower.
    Tcg,
}

/// A boot sector that writes 0x10 to port 0xf4: `mov al, 0x10; out 0xf4, al; hlt; jmp $-1`.
const BOOT_CODE: [u8; 7] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
/// isa-debug-exit ends QEMU with (value << 1) | 1.
const BOOTED: i32 = 0x21;

impl Accelerator {
    /// Decides once in a process. /dev/kvm may exist and still run no guest, or none that leaves real mode (where the host
    /// is a guest itself without nested virtualisation): the processor must have the feature, and a guest of one boot
    /// sector is started.
    ///
    /// # Errors
    /// When QEMU is missing.
    pub fn detect() -> Result<Self> {
        static DETECTED: OnceLock<Accelerator> = OnceLock::new();
        if let Some(known) = DETECTED.get() {
            return Ok(*known);
        }
        let found = if has_virtualisation() && boots_with(Self::Kvm)? { Self::Kvm } else { Self::Tcg };
        Ok(*DETECTED.get_or_init(|| found))
    }

    /// QEMU's arguments.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // A small cache of translated code: of code that is long gone none is thrown away before the cache is full (1 GiB), and each
            // page that is read from a disk into memory where such code was is then looked through. Debian's start took half as
            // long again by that, most of it right behind the initrd, and a second start in the same QEMU much longer.
            // Without cx16: QEMU before 8.0 spoils the flags in cmpxchg16b (its helper reads a stale cc_op), and an
            // interrupt right behind it then ends in a double fault. Linux's allocator does without the instruction.
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max,cx16=off"],
        }
    }
}

/// True when the processor says that it runs guests and the kernel lets this user have them.
fn has_virtualisation() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags.split_whitespace().any(|word| word == "vmx" || word == "svm");
    able && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// True when a guest reaches its boot sector.
fn boots_with(accelerator: Accelerator) -> Result<bool> {
    let dir = tempfile::tempdir().context("making a directory for the trial guest")?;
    let image = dir.path().join("boot");
    let mut sector = BOOT_CODE.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    fs::write(&image, sector).context("writing the trial guest")?;
    let mut child = Command::new(tool::find("qemu-system-x86_64")?)
        .args(["-machine", "pc", "-smp", "2", "-m", "16", "-nodefaults", "-no-user-config"])
        .args(accelerator.arguments())
        .args(["-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive"])
        .arg(format!("file={},format=raw,if=ide,readonly=off", image.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting a trial guest")?;
    let ended = until("the end of the trial guest", seconds(20), || Ok(child.try_wait()?));
    let Ok(status) = ended else {
        child.kill().context("stopping the trial guest")?;
        child.wait().context("waiting for the trial guest")?;
        return Ok(false);
    };
    Ok(status.code() == Some(BOOTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_guest_starts() {
        assert!(boots_with(Accelerator::Tcg).unwrap());
    }
}
