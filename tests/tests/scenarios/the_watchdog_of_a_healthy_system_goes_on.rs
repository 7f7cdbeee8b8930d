//! A watchdog goes along with a kexec into Debian, which takes it over and outlives three of its time-outs. Debian confirms the
//! kexec, so that the next installation jumps again, which takes less than a reboot by at least half of what firmware and boot
//! loader take.

use metalstrap_qemu::{Disk, Event, Line, Machine, Swtpm, minutes};
use metalstrap_release::host::{HandoffMode, TpmPolicy};
use metalstrap_tests::measured::note;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, SERIAL, Scene};
use metalstrap_tests::uptime::{self, CONFIRMED, KERNEL, LIVED, Lived, UP, last_line, seconds};
use serde_json::{Value, json};

/// Seconds of the watchdog. From the jump to the driver in the OS's initrd, and later from the root file system's PID 1 to its first
/// round, nobody feeds it: some 20 s each on a quiet host without KVM, several times that on a busy one.
const WATCHDOG: u64 = 200;
/// What the TPM may take of an installation, in seconds.
const TPM: f64 = 3.0;

#[test]
fn the_watchdog_of_a_healthy_system_goes_on() {
    let watchdog = WATCHDOG.to_string();
    let more = ["--watchdog", watchdog.as_str(), "--level", "1"];
    let mut scene = Scene::publishing("healthy", Target::Debian, &more).unwrap();
    scene.host.tpm = TpmPolicy::Required;
    let image = scene.netboot().unwrap();
    let tpm = Swtpm::manufacture(&scene.run.path().join("tpm"), true).unwrap();
    let machine = Machine::builder("machine").memory(1024).disk(Disk::virtio(DISK).serial(SERIAL)).tpm(&tpm).watchdog();
    // The unit is in each boot; only the first lives for so long.
    let machine = uptime::with_unit(machine, 3 * WATCHDOG);
    let mut machine = machine.reboots(true).firmware_boot_with_stick(&image).start(&scene.lab).unwrap();

    let mut runs = Vec::new();
    let first = boot(&machine, &mut runs);
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
    assert!(resets.iter().all(|at| *at < first.finished.time), "{resets:?} since {:?}", first.finished.time);
    assert_eq!(first.fields["handoff"], "kexec");

    // Of boots that are not the OS's first, and make no file systems.
    scene.turn = scene.turn.alone();
    machine.reset().unwrap();
    let kexec = boot(&machine, &mut runs);
    assert_eq!(kexec.fields["handoff"], "kexec", "{}", kexec.fields);
    // Before that, the next boot would be from the disk.
    machine.serial().wait_for(CONFIRMED, minutes(11)).unwrap();
    scene.host.handoff = HandoffMode::Reboot;
    scene.published.add_default_host(&scene.host).unwrap();
    machine.reset().unwrap();
    let reboot = boot(&machine, &mut runs);
    assert_eq!(reboot.fields["handoff"], "reboot");
    assert!(machine.monitor_times("WATCHDOG").is_empty());

    let firmware = firmware_and_loader(&machine, &reboot);
    let [by_kexec, by_reboot] = [&kexec, &reboot].map(Boot::handoff_to_multi_user);
    let saved = by_reboot - by_kexec;
    assert!(
        2.0 * saved >= firmware,
        "kexec took {by_kexec} s, a reboot {by_reboot} s, of which firmware and boot loader {firmware} s"
    );
    let tpm_work = [&kexec, &reboot].map(|boot| boot.fields["tpm_seconds"].as_f64().unwrap());
    assert!(tpm_work.iter().all(|seconds| (0.001..=TPM).contains(seconds)), "{tpm_work:?}");
    let [by_kexec, by_reboot, firmware, tpm_work] =
        [by_kexec, by_reboot, firmware, tpm_work[0]].map(|seconds| (seconds * 1000.0).round() / 1000.0);
    drop(machine);
    note(&json!({
        "healthy_survives_watchdog": true,
        "seconds": {
            "handoff_to_multi_user_kexec": by_kexec,
            "handoff_to_multi_user_reboot": by_reboot,
            "firmware_and_loader": firmware,
            "tpm_work": tpm_work,
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
    fn handoff_to_multi_user(&self) -> f64 {
        (self.up.at - self.finished.at).as_secs_f64()
    }
}

/// Waits for the next installation that is none of `before`, and for the OS behind it.
fn boot(machine: &Machine<'_>, before: &mut Vec<Value>) -> Boot {
    let is_end = |event: &Value| {
        event["step"] == "run" && event["state"] == "finished" && !before.iter().any(|run| event["run"] == *run)
    };
    let finished = machine.serial().wait_for_event("the end of the run", minutes(15), is_end).unwrap();
    before.push(finished.value["run"].clone());
    let fields = finished.value["fields"].clone();
    machine.serial().wait_for(UP, minutes(15)).unwrap();
    let up = last_line(machine, "the OS that is up", |line| line.text.contains(UP)).unwrap();
    Boot { finished, fields, up }
}

/// Seconds from the reset behind the installation to the kernel's first line.
fn firmware_and_loader(machine: &Machine<'_>, boot: &Boot) -> f64 {
    let mut lines = machine.serial().lines().into_iter();
    assert!(lines.any(|line| line.at > boot.finished.at && line.text.contains(KERNEL)));
    // That line may begin with what the boot loader has left there, so it is the one behind that counts.
    let kernel = lines.next().unwrap();
    let reset = machine.monitor_times("RESET").into_iter().rfind(|at| *at < kernel.time).unwrap();
    assert!(reset > boot.finished.time, "the machine was not reset");
    seconds(reset, kernel.time).unwrap()
}
