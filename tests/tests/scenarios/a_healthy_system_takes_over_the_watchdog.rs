//! A watchdog goes along with a kexec into Debian, which takes it over, outlives three of its time-outs, and confirms the kexec. Then
//! the same release goes to a blank disk, and is started by a reboot: kexec saves at least half of what firmware and boot loader
//! take of that.

use std::fs::File;

use metalstrap_qemu::{Disk, Event, Line, Machine, Swtpm, minutes};
use metalstrap_release::host::{HandoffMode, TpmPolicy};
use metalstrap_tests::measured::{TPM_WORK, note};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, SERIAL, Scene};
use metalstrap_tests::uptime::{self, CONFIRMED, KERNEL, LIVED, Lived, UP, last_line, seconds};
use serde_json::{Value, json};

/// Seconds of the watchdog. From the jump to the driver in the OS's initrd, and later from the root file system's PID 1 to its first
/// round, nobody feeds it: some 20 s each on a quiet host without KVM, several times that on a busy one.
const WATCHDOG: u64 = 200;

#[test]
fn a_healthy_system_takes_over_the_watchdog() {
    let watchdog = WATCHDOG.to_string();
    let more = ["--watchdog", watchdog.as_str(), "--level", "1"];
    let mut scene = Scene::publishing("healthy", Target::Debian, &more).unwrap();
    scene.host.tpm = TpmPolicy::Required;
    let image = scene.netboot().unwrap();
    let tpm = Swtpm::manufacture(&scene.run.path().join("tpm"), true).unwrap();
    let machine = Machine::builder("machine").memory(1024).disk(Disk::virtio(DISK).serial(SERIAL)).tpm(&tpm).watchdog();
    let machine = uptime::with_unit(machine, 3 * WATCHDOG);
    let mut machine = machine.reboots(true).firmware_boot_with_stick(&image).start(&scene.lab).unwrap();

    let kexec = boot(&machine);
    assert_eq!(kexec.fields["handoff"], "kexec", "{}", kexec.fields);
    machine.serial().wait_for(CONFIRMED, minutes(11)).unwrap();
    machine.serial().wait_for(LIVED, minutes(20)).unwrap();
    let lived = Lived::parse(&machine.serial().wait_for("\n", minutes(1)).unwrap()).unwrap();
    assert!(lived.uptime > 3 * WATCHDOG, "{lived:?}");
    assert_eq!((lived.state.as_str(), lived.timeout.as_str()), ("active", watchdog.as_str()));
    let told = format!("systemd.watchdog_sec={WATCHDOG}");
    assert!(lived.cmdline.split_whitespace().any(|word| word == told), "{lived:?}");
    // Confirmed: the mark and BootNext are gone, and the server is told.
    assert_eq!(lived.variables, "BootOrder");
    scene.reported("confirmed", minutes(1)).unwrap();
    let resets = machine.monitor_times("RESET");
    assert!(resets.iter().all(|at| *at < kexec.finished.time), "{resets:?} since {:?}", kexec.finished.time);
    assert!(machine.monitor_times("WATCHDOG").is_empty());
    let kexec_to_kernel = kexec.handoff_to(&kernel(&machine, &kexec));

    // The first start of that OS as well, which makes file systems.
    scene.host.handoff = HandoffMode::Reboot;
    scene.published.add_default_host(&scene.host).unwrap();
    machine.power_off().unwrap();
    let disk = File::options().write(true).open(machine.disk(0).unwrap()).unwrap();
    disk.set_len(0).and_then(|()| disk.set_len(DISK)).unwrap();
    let machine = machine.power_cycle(|builder| builder).unwrap();
    let reboot = boot(&machine);
    assert_eq!(reboot.fields["handoff"], "reboot");
    assert!(machine.monitor_times("WATCHDOG").is_empty());
    let started = kernel(&machine, &reboot);
    let firmware = firmware_and_loader(&machine, &reboot, &started);
    let reboot_to_kernel = reboot.handoff_to(&started);

    let saved = reboot_to_kernel - kexec_to_kernel;
    assert!(
        2.0 * saved >= firmware,
        "to the kernel kexec took {kexec_to_kernel} s, a reboot {reboot_to_kernel} s, of which firmware and boot loader {firmware} s"
    );
    let tpm_work = [&kexec, &reboot].map(|boot| boot.fields["tpm_seconds"].as_f64().unwrap());
    assert!(tpm_work.iter().all(|seconds| (0.001..=TPM_WORK).contains(seconds)), "{tpm_work:?}");
    drop(machine);
    let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    note(&json!({
        "healthy_survives_watchdog": true,
        "seconds": {
            "handoff_to_kernel_kexec": rounded(kexec_to_kernel),
            "handoff_to_kernel_reboot": rounded(reboot_to_kernel),
            "handoff_to_multi_user_kexec": rounded(kexec.handoff_to(&kexec.up)),
            "handoff_to_multi_user_reboot": rounded(reboot.handoff_to(&reboot.up)),
            "firmware_and_loader": rounded(firmware),
            "tpm_work": rounded(tpm_work[0]),
        },
    }))
    .unwrap();
    scene.passed().unwrap();
}

/// An installation, and the start of the OS behind it.
struct Boot {
    /// The last event.
    finished: Event,
    /// Of that event.
    fields: Value,
    /// multi-user.target is reached.
    up: Line,
}

impl Boot {
    /// Seconds from the last event to that line.
    fn handoff_to(&self, line: &Line) -> f64 {
        (line.at - self.finished.at).as_secs_f64()
    }
}

/// Waits for the end of the installation that the machine was switched on for, and for the OS behind it.
fn boot(machine: &Machine<'_>) -> Boot {
    let is_end = |event: &Value| event["step"] == "run" && event["state"] == "finished";
    let finished = machine.serial().wait_for_event("the end of the run", minutes(15), is_end).unwrap();
    let fields = finished.value["fields"].clone();
    machine.serial().wait_for(UP, minutes(15)).unwrap();
    let up = last_line(machine, "the OS that is up", |line| line.text.contains(UP)).unwrap();
    Boot { finished, fields, up }
}

/// The beginning of what the OS's kernel says.
fn kernel(machine: &Machine<'_>, boot: &Boot) -> Line {
    let mut lines = machine.serial().lines().into_iter();
    assert!(lines.any(|line| line.at > boot.finished.at && line.text.contains(KERNEL)));
    // That line may begin with what the boot loader has left there, so it is the one behind that counts.
    lines.next().unwrap()
}

/// Seconds from the reset behind the installation to that line of the kernel.
fn firmware_and_loader(machine: &Machine<'_>, boot: &Boot, kernel: &Line) -> f64 {
    let reset = machine.monitor_times("RESET").into_iter().rfind(|at| *at < kernel.time).unwrap();
    assert!(reset > boot.finished.time, "the machine was not reset");
    seconds(reset, kernel.time).unwrap()
}
