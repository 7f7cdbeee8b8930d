//! Up to the system call, which refuses a kernel that is none: what a software TPM holds then.

use std::io::Cursor;
use std::sync::Arc;

use metalstrap_release::digest::{Digest, to_hex};
use metalstrap_release::host::{Existing, TpmPolicy};
use metalstrap_release::manifest::{Pcr11, Predictions, SectionDigest};
use metalstrap_release::pcr::{self, Bank, BankDigest, Pcr, Phase, Signature, policy};
use metalstrap_release::uki::Sections;
use metalstrap_release::verity::{self, BLOCK, Tree};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::config::Place;
use crate::converge::Tally;
use crate::disk::Region;
use crate::eventlog::Measurer;
use crate::failure::code_of;
use crate::handoff::tests::{CMDLINE, on_disk, ordinary, uki, without_memory, without_room};
use crate::inventory::Contents;
use crate::machine::Seams;
use crate::plan::tests::{GIB, host, plan};
use crate::report::Reporter;
use crate::report::tests::Lines;
use crate::tpm::swtpm::{GONE, Swtpm};

/// A machine in the netboot image, as far as it concerns its TPM.
fn machine<'a>(tell: &'a Reporter, measurer: Measurer) -> Machine<'a> {
    Machine::new(&Place::Netboot, tell, measurer, None, Seams::default())
}

fn measurer(swtpm: &Swtpm, directory: &TempDir, tpm: TpmPolicy) -> Measurer {
    let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &directory.path().join("log"));
    measurer.decide(tpm).unwrap();
    measurer
}

/// An ESP with this UKI.
fn esp(image: &[u8]) -> (Esp, Boot) {
    let (place, _, boot) = on_disk(image);
    let mut content = vec![0; usize::try_from(place.size).unwrap()];
    place.read_at(0, &mut content).unwrap();
    let (blocks, mut hashes) = (place.size / BLOCK, Cursor::new(Vec::new()));
    let root_hash = verity::build(&mut content.as_slice(), blocks, b"salt", Uuid::nil(), &mut hashes).unwrap();
    let hashes = hashes.into_inner();
    let store = Region { disk: Arc::clone(&place.disk), start: 32 << 20, size: hashes.len() as u64 };
    store.write_at(0, &hashes).unwrap();
    let uki_tree = Arc::new(Tree::open(store, root_hash, b"salt".to_vec(), blocks).unwrap());
    let (uki_size, uki_path, unnoted) = (image.len() as u64, "EFI/Linux/os.efi".to_owned(), Vec::new());
    (Esp { uki: place, uki_size, uki_tree, uki_path, tally: Tally::default(), unnoted }, boot)
}

fn line() -> CommandLine {
    CommandLine::new(CMDLINE, "quiet").unwrap()
}

/// What is done with the machine, and what a person is warned of.
fn told<T>(measurer: Measurer, act: impl FnOnce(&mut Machine<'_>) -> T) -> (T, Measurer, Vec<String>) {
    let lines = Lines::default();
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let mut machine = machine(&tell, measurer);
    let done = act(&mut machine);
    let measurer = machine.measurer;
    let warnings = lines.0.lock().unwrap().iter().filter(|line| line.starts_with("warning: ")).cloned().collect();
    (done, measurer, warnings)
}

/// What it ends with, and what it says until then.
fn prepare(image: &[u8], measurer: Measurer, host: &Host) -> (Result<Ending>, Measurer, Vec<String>) {
    let (esp, boot) = esp(image);
    told(measurer, |machine| {
        machine.load_kernel(&esp, &boot, &line(), b"070701credentials", &Signatures::default(), host)
    })
}

fn extended(values: Vec<BankDigest>, inputs: &[&[u8]]) -> Vec<BankDigest> {
    let extend =
        |value: BankDigest, input: &&[u8]| value.bank.digest(&[value.digest, value.bank.digest(input).digest].concat());
    values.into_iter().map(|value| inputs.iter().fold(value, extend)).collect()
}

/// `systemd-measure calculate` of systemd 257 with these files; `.pcrsig` does not count.
#[test]
fn pcr_11_is_what_systemd_measure_calculates() {
    let sections = [
        (".uname", b"6.12.0".to_vec(), 0),
        (".initrd", b"INITRD-BYTES".to_vec(), 0),
        (".pcrsig", b"{}".to_vec(), 0),
        (".cmdline", b"console=ttyS0 roothash=00".to_vec(), 0),
        (".osrel", b"ID=test\n".to_vec(), 0),
        (".linux", b"KERNEL-BYTES".to_vec(), 0),
    ];
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let measurer = measurer(&swtpm, &directory, TpmPolicy::Required);
    let (ending, mut measurer, _) = prepare(&uki(&sections), measurer, &host(Existing::Keep));
    assert_eq!(ending.unwrap(), Ending::Reboot);
    let found = measurer.read(PcrIndex::KernelBoot).unwrap();
    assert_eq!(to_hex(&found[1].digest), "c1f5fa27daaad5a9029afe7d3eaa9371a092981934082e381b79d68eb48bdc2d");
    let ready = Pcr::with_value(Bank::Sha256, &found[1].digest).unwrap().at(Phase::Ready);
    assert_eq!(to_hex(ready.value()), "743a9c1b25914c619cd8f62934feab82ebfd361ae16c7152ea176d81820c9d97");
}

#[test]
fn the_uki_and_what_is_added_are_measured_from_any_value_on() {
    let image = uki(&ordinary());
    for start in [None, Some(b"netboot")] {
        let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
        let mut measurer = measurer(&swtpm, &directory, TpmPolicy::Required);
        if let Some(bytes) = start {
            measurer.measure(PcrIndex::KernelBoot, "netboot", bytes).unwrap();
        }
        let before = measurer.read(PcrIndex::KernelBoot).unwrap();
        let zero = measurer.read(PcrIndex::KernelConfig).unwrap();

        let (ending, mut measurer, warnings) = prepare(&image, measurer, &host(Existing::Keep));

        // The kernel of this host takes no kernel that is none.
        assert_eq!(ending.unwrap(), Ending::Reboot);
        assert!(warnings.iter().all(|text| text.ends_with("; rebooting instead of kexec")), "{warnings:?}");
        let sections = Sections::parse(&image).unwrap();
        let extensions = pcr::extensions(&mut Cursor::new(&image), &sections, &Bank::ALL).unwrap();
        for (before, after) in before.iter().zip(measurer.read(PcrIndex::KernelBoot).unwrap()) {
            let expected = Pcr::with_value(before.bank, &before.digest).unwrap().after(&extensions);
            assert_eq!(after.digest, expected.value(), "{start:?}");
        }
        let options = "console=ttyS0 roothash=00 quiet\0".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let expected = extended(zero, &[options.as_slice(), b"070701credentials", &extra::importer()]);
        assert_eq!(measurer.read(PcrIndex::KernelConfig).unwrap(), expected);
    }
}

#[test]
fn the_log_says_what_went_where() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let measurer = measurer(&swtpm, &directory, TpmPolicy::Required);
    let (_, measurer, _) = prepare(&uki(&ordinary()), measurer, &host(Existing::Keep));
    let records = measurer.log().split_inclusive('\n').map(|record| record.strip_prefix('\u{1e}').unwrap());
    let records = records.map(|record| serde_json::from_str::<Value>(record).unwrap());
    let found: Vec<_> = records
        .map(|record| (record["pcr"].as_u64().unwrap(), record["content"]["input"].as_str().unwrap().to_owned()))
        .collect();
    let sections = [".linux", ".osrel", ".cmdline", ".initrd"];
    let sections = sections.iter().flat_map(|name| [format!("section-name:{name}"), format!("section:{name}")]);
    let added = ["load-options", "global-credentials", "event-log-importer"].map(|name| (12, name.to_owned()));
    let expected = sections.map(|name| (11, name)).chain(added);
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn a_tpm_that_disappears_stops_the_handoff_where_it_is_required() {
    let run = |tpm: TpmPolicy, pcr11: Pcr11Need| {
        let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
        let measurer = measurer(&swtpm, &directory, tpm);
        drop(swtpm);
        let (ending, _, warnings) = prepare(&uki(&ordinary()), measurer, &Host { pcr11, ..host(Existing::Keep) });
        (ending, warnings)
    };
    let cause = format!("measuring the section-name:.linux: extending PCR 11: {GONE}");
    let goes_on = format!("warning: the installation goes on without measuring: {cause}");
    let error = run(TpmPolicy::Required, Pcr11Need::Any).0.unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    assert_eq!(format!("{error:#}"), cause);
    // It goes on to the kernel, which this host's does not take.
    let (ending, warnings) = run(TpmPolicy::IfPresent, Pcr11Need::Any);
    assert_eq!(ending.unwrap(), Ending::Reboot);
    assert_eq!((warnings.len(), &warnings[0]), (2, &goes_on));
    assert!(warnings[1].starts_with("warning: loading the installed kernel: "), "{warnings:?}");
    // It does not where PCR 11 is needed.
    let (ending, warnings) = run(TpmPolicy::IfPresent, Pcr11Need::Signed);
    assert_eq!(ending.unwrap(), Ending::Reboot);
    assert_eq!(warnings, [goes_on, format!("warning: {cause}; rebooting instead of kexec")]);
}

/// As in a run whose plan says kexec, and whose last measurement before the handoff failed.
#[test]
fn a_tpm_that_failed_before_the_handoff_makes_it_a_reboot_where_pcr_11_is_needed() {
    let cause = "measuring the uki: extending PCR 13: the TPM answered with error 0x101: it is in failure mode, \
                 which only a restart of the machine may end";
    let run = |pcr11: Pcr11Need| {
        let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
        let mut measurer = measurer(&swtpm, &directory, TpmPolicy::IfPresent);
        swtpm.fail(0x101);
        measurer.measure(PcrIndex::Installer, "uki", b"00").unwrap();
        let (ending, measurer, warnings) =
            prepare(&uki(&ordinary()), measurer, &Host { pcr11, ..host(Existing::Keep) });
        assert_eq!(measurer.failure(), Some(cause));
        assert_eq!(ending.unwrap(), Ending::Reboot);
        warnings
    };
    assert_eq!(run(Pcr11Need::Signed), [format!("warning: {cause}; rebooting instead of kexec")]);
    // It goes on to the kernel, which this host's does not take.
    let warnings = run(Pcr11Need::Any);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("warning: loading the installed kernel: "), "{warnings:?}");
}

#[test]
fn a_person_reads_once_that_measuring_has_ended() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let measurer = measurer(&swtpm, &directory, TpmPolicy::IfPresent);
    drop(swtpm);
    let measure = |machine: &mut Machine<'_>| ["plan", "uki"].map(|what| machine.measure(what, b"1").is_ok());
    let (measured, _, warnings) = told(measurer, measure);
    assert_eq!(measured, [true, true]);
    let text = "warning: the installation goes on without measuring: measuring the plan: extending PCR 13: ";
    assert_eq!(warnings, [format!("{text}{GONE}")]);

    let decide = |tpm: TpmPolicy| {
        let failed = Measurer::with(Err(anyhow::anyhow!("no answer")), &directory.path().join("none"));
        let host = Host { tpm, ..host(Existing::Keep) };
        let (decided, _, warnings) = told(failed, |machine| machine.decide_measuring(&host));
        (decided.map_err(|error| error.to_string()), warnings)
    };
    let text = "warning: the installation goes on without measuring: no answer".to_owned();
    assert_eq!(decide(TpmPolicy::IfPresent), (Ok(()), vec![text]));
    let text = "the host config requires a TPM, but nothing more is measured: no answer".to_owned();
    assert_eq!(decide(TpmPolicy::Required), (Err(text), Vec::new()));
}

#[test]
fn a_uki_that_the_machine_decides_about_is_left_to_the_firmware() {
    let mut sections = ordinary();
    sections.push((".dtbauto", b"tree".to_vec(), 0));
    let image = uki(&sections);
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let measurer = measurer(&swtpm, &directory, TpmPolicy::IfPresent);
    let (ending, mut measurer, warnings) = prepare(&image, measurer, &host(Existing::Keep));
    assert_eq!(ending.unwrap(), Ending::Reboot);
    assert_eq!(
        warnings,
        [
            "warning: the UKI has a section .dtbauto, and whether systemd-stub measures it depends on the machine's hardware; \
          rebooting instead of kexec"
        ]
    );
    let found = measurer.read(PcrIndex::KernelBoot).unwrap();
    assert!(found.iter().all(|value| value.digest.iter().all(|byte| *byte == 0)), "{found:?}");
}

/// What a manifest of another publisher may name: the disk is not to blame.
#[test]
fn a_uki_that_cannot_be_split_is_left_to_the_firmware() {
    // Where the handmade UKI has its machine type and the header of a section.
    let (kind, header) = (0x44, |index: usize| 0xc8 + 40 * index);
    let changed = |at: usize, field: &[u8]| {
        let mut image = uki(&ordinary());
        image[at..at + field.len()].copy_from_slice(field);
        image
    };
    let number = |at: usize, value: u32| changed(at, &value.to_le_bytes());
    let with = |name: &'static str, size: usize| {
        let mut sections = ordinary();
        sections.push((name, vec![b'x'; size], 0));
        uki(&sections)
    };
    let mut short = uki(&ordinary());
    short.truncate(short.len() - 512);
    let mut other = ordinary();
    other[1].1 = b"console=ttyS9".to_vec();
    let faulty = [
        (changed(0, b"EL"), "the UKI is no PE file: it does not start with MZ"),
        (changed(kind, &[0x64, 0xaa]), "the UKI is for machine 0xaa64, not x86-64"),
        (uki(&ordinary()[1..2]), "the UKI has no section .linux"),
        (uki(&ordinary()[2..]), "the UKI has no section .cmdline"),
        (number(header(3) + 20, 512), "the UKI has sections that overlap in the file: .osrel and .initrd"),
        (number(header(2) + 20, 0), "the UKI has a section .linux that overlaps its headers in the file"),
        (number(header(2) + 8, (1 << 30) + 1), "the UKI has a section .linux of 1073741825 bytes, too large"),
        (with(".cmdline", 1), "the UKI has two sections .cmdline"),
        (with(".pcrsig", (1 << 20) + 1), "the UKI's section .pcrsig has 1048577 bytes, more than 1048576"),
        (short, "the UKI has a section .initrd that reaches behind the end of the file"),
        (
            uki(&other),
            "the UKI's command line is \"console=ttyS9\", but the manifest says \"console=ttyS0 roothash=00\"",
        ),
    ];
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    for (image, problem) in faulty {
        let (ending, mut measurer, warnings) =
            prepare(&image, measurer(&swtpm, &directory, TpmPolicy::IfPresent), &host(Existing::Keep));
        assert_eq!(ending.unwrap(), Ending::Reboot, "{problem}");
        assert_eq!(warnings, [format!("warning: {problem}; rebooting instead of kexec")]);
        let found = measurer.read(PcrIndex::KernelBoot).unwrap();
        assert!(found.iter().all(|value| value.digest.iter().all(|byte| *byte == 0)), "{problem}: {found:?}");
    }
}

/// The plan that is made where the OS needs a signed policy, and this one is there.
fn planned(measurer: Measurer, pcr11: Pcr11Need, signed_from: Option<&[u8; 32]>) -> (HandoffMode, Vec<String>) {
    let tell = Reporter::new("r".into(), Box::new(Lines::default()), None);
    let mut boot = crate::plan::tests::manifest().boot;
    let sections = vec![SectionDigest { name: ".linux".to_owned(), sha256: Digest::of(b"kernel") }];
    boot.pcr11 = Some(Pcr11 { phases: Predictions::new(&[]).unwrap(), sections, signatures: None });
    let mut signatures = Signatures::default();
    if let Some(start) = signed_from {
        let start = Pcr::with_value(Bank::Sha256, start).unwrap();
        let stub = boot.pcr11.as_ref().unwrap().after(&start).unwrap();
        let pol = policy(&stub.at(Phase::EnterInitrd));
        signatures.sha256.push(Signature { pcrs: vec![11], pkfp: Digest::of(b"key"), pol, sig: String::new() });
    }
    let (host, plan) = (Host { pcr11, ..host(Existing::Keep) }, plan(GIB, 512, Contents::Blank));
    let (host, plan) = machine(&tell, measurer).decide_handoff(host, plan, &boot, &signatures);
    (host.handoff, plan.handoff.unwrap().reasons)
}

#[test]
fn the_plan_says_reboot_where_no_signed_policy_fits() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let fresh = || measurer(&swtpm, &directory, TpmPolicy::Required);
    let zero = [0; 32];
    assert_eq!(planned(fresh(), Pcr11Need::Signed, Some(&zero)), (HandoffMode::Kexec, Vec::new()));
    assert_eq!(planned(fresh(), Pcr11Need::Any, None), (HandoffMode::Kexec, Vec::new()));
    let none = "`pcr11` is `signed`, and the release has no signed policy for its start";
    let reboot = |end: &str| (HandoffMode::Reboot, vec![format!("{none} {end}")]);
    assert_eq!(planned(fresh(), Pcr11Need::Signed, None), reboot("alone"));

    fresh().measure(PcrIndex::KernelBoot, "netboot", b"netboot").unwrap();
    let behind = Digest::of(&[zero, Digest::of(b"netboot").0].concat()).0;
    assert_eq!(planned(fresh(), Pcr11Need::Signed, Some(&behind)), (HandoffMode::Kexec, Vec::new()));
    let chained = reboot("behind the UKI that the installer was started from");
    assert_eq!(planned(fresh(), Pcr11Need::Signed, Some(&zero)), chained);
    // Nothing is sealed where there is no TPM; one that failed may work for the OS.
    let absent = Measurer::with(Ok(None), &directory.path().join("none"));
    assert_eq!(planned(absent, Pcr11Need::Signed, None), (HandoffMode::Kexec, Vec::new()));
    let failed = Measurer::with(Err(anyhow::anyhow!("no answer")), &directory.path().join("log"));
    let text = "`pcr11` is `signed`, and PCR 11 cannot be foretold: no answer";
    assert_eq!(planned(failed, Pcr11Need::Signed, None), (HandoffMode::Reboot, vec![text.to_owned()]));
}

#[test]
fn a_uki_is_not_measured_twice_in_one_boot() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let first = measurer(&swtpm, &directory, TpmPolicy::Required);
    drop(prepare(&uki(&ordinary()), first, &host(Existing::Keep)));
    let text = "an earlier run of this boot has measured an installed UKI into PCR 11, which only a restart clears";
    let reboot = (HandoffMode::Reboot, vec![text.to_owned()]);
    for pcr11 in [Pcr11Need::Any, Pcr11Need::Signed] {
        assert_eq!(planned(measurer(&swtpm, &directory, TpmPolicy::Required), pcr11, None), reboot);
    }
    // Nor does it help that the TPM does not answer any more.
    let failed = Measurer::with(Err(anyhow::anyhow!("no answer")), &directory.path().join("log"));
    assert_eq!(planned(failed, Pcr11Need::Any, None), reboot);
}

#[test]
fn what_fails_behind_the_measurements_is_a_reboot_and_no_failure_of_the_run() {
    let load = |machine: &mut Machine<'_>| {
        machine.load_measured(&without_room(), &line(), b"070701credentials", &Signatures::default())
    };
    let (ending, _, warnings) = told(Measurer::off(), load);
    assert_eq!(ending, Ending::Reboot);
    let text = "warning: adding to the initrd: Invalid argument (os error 22); rebooting instead of kexec";
    assert_eq!(warnings, [text]);
}

#[test]
fn a_uki_that_memory_does_not_hold_is_left_to_the_firmware() {
    let lacks = "warning: holding the installed UKI in memory: ";
    for (error, doing) in without_memory().into_iter().zip(["making", "reserving", "copying"]) {
        let (ending, _, warnings) = told(Measurer::off(), |machine| machine.not_read(error, "EFI/Linux/os.efi"));
        assert_eq!(ending.unwrap(), Ending::Reboot);
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(warning.starts_with(&format!("{lacks}{doing} ")), "{warning}");
        assert!(warning.ends_with("; rebooting instead of kexec"), "{warning}");
    }
    let lost = LoadError::Uki(anyhow::anyhow!("block 1 has digest 00"));
    let (ending, _, warnings) = told(Measurer::off(), |machine| machine.not_read(lost, "EFI/Linux/os.efi"));
    let error = ending.unwrap_err();
    assert_eq!((code_of(&error), warnings.len()), (Code::DiskIo, 0));
    let text = "checking EFI/Linux/os.efi on the disk: reading the UKI back from the disk: block 1 has digest 00";
    assert_eq!(format!("{error:#}"), text);
}

/// What is made of a plan with this ending by a command line of 40 bytes, of which the kernel takes 39.
fn fitted(planned: HandoffMode, cmdline_extra: &str) -> (Result<(HandoffMode, Vec<String>)>, Vec<String>) {
    let boot = Boot { cmdline_limit: 39 + 31, ..crate::plan::tests::manifest().boot };
    let line = CommandLine::new(&"x".repeat(40), "").unwrap();
    let host = Host { handoff: planned, cmdline_extra: cmdline_extra.to_owned(), ..host(Existing::Keep) };
    let decision = Decision::new(planned, []);
    let plan = Plan { handoff: Some(decision), ..plan(GIB, 512, Contents::Blank) };
    let (fitted, _, warnings) = told(Measurer::off(), |machine| machine.fit_command_line(host, plan, &line, &boot));
    (fitted.map(|(host, plan)| (host.handoff, plan.handoff.unwrap().reasons)), warnings)
}

#[test]
fn a_command_line_that_is_too_long_counts_where_the_plan_says_kexec() {
    let text = "the kernel command line has 40 bytes, but the installed kernel takes at most 39 by kexec";
    let (fits, warnings) = fitted(HandoffMode::Kexec, "");
    assert_eq!(fits.unwrap(), (HandoffMode::Reboot, vec![text.to_owned()]));
    assert_eq!(warnings, [format!("warning: reboot instead of kexec: {text}")]);
    // The host config wants its words on it.
    let (fits, warnings) = fitted(HandoffMode::Kexec, "quiet");
    let error = fits.unwrap_err();
    assert_eq!(error.to_string(), format!("{text}: shorten cmdline_extra of the host config"));
    assert_eq!((code_of(&error), warnings.len()), (Code::CommandLine, 0));
    // The stub starts the UKI's own.
    for planned in [HandoffMode::Reboot, HandoffMode::Poweroff] {
        let (fits, warnings) = fitted(planned, "quiet");
        assert_eq!((fits.unwrap(), warnings.len()), ((planned, Vec::new()), 0));
    }
}

#[test]
fn a_log_of_the_firmware_that_is_too_large_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let (esp, boot) = esp(&uki(&ordinary()));
    let parts = handoff::read(&esp.uki, &esp.uki_tree, &boot, &[]).unwrap();
    let firmware = directory.path().join("firmware");
    std::fs::write(&firmware, vec![1; (1 << 20) + 1]).unwrap();
    let (handed, _, warnings) =
        told(Measurer::off(), |machine| machine.hand_over_logs(&parts, "own", false, &firmware));
    handed.unwrap();
    let told = format!("{} has 1048577 bytes, more than 1048576", firmware.display());
    assert_eq!(warnings, [format!("warning: the firmware's event log is not handed over: {told}")]);
}
