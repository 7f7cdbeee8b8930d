//! One machine with a TPM, started as a netboot UKI over HTTP, from its disk, as kernel and initrd, and from its disk again. Each
//! time the installed OS has, in each phase of its start, the PCR 11 that was foretold, or that systemd-measure calculates, and a
//! LUKS2 volume opens that was enrolled in the first boot with a signed policy for PCR 11, in later boots in the initrd too; at
//! another value it does not. The OS that a kexec has led to tells the server so. The event logs account for what the
//! installer has extended, by systemd-pcrlock and by a replay, and their copies on the disk are still there when the plug was pulled.
//! In the first boot the machine is attested, and tpm2_checkquote takes the same quote; what it reports of that run is accepted too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use metalstrap_qemu::{Disk, GATEWAY, Machine, NAME, Swtpm, minutes};
use metalstrap_release::host::{Attestation, AttestationPolicy, BootOrder, Host, Pcr11Need, TpmPolicy};
use metalstrap_release::uki::{HEAD_BYTES, Sections, read_section};
use metalstrap_tests::artifacts::{self, built, program};
use metalstrap_tests::measured::{TPM_WORK, note};
use metalstrap_tests::operator::metalstrap_json;
use metalstrap_tests::proof::{Findings, PHASES, Proof};
use metalstrap_tests::quote::Kept;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, SERIAL, Scene, plan};
use serde_json::{Value, json};

/// Where the verifier listens, beside the repository.
const VERIFIER: u16 = 8444;
/// No section of a UKI is larger.
const MAX_SECTION: u64 = 512 << 20;

#[test]
fn a_boot_opens_a_volume_by_what_was_measured() {
    let scene = Scene::new("measured", Target::Debian).unwrap();
    let dir = scene.run.path().to_owned();
    let tpm = Swtpm::manufacture(&dir.join("tpm"), true).unwrap();
    let keys = pcr_keys(&dir);
    let netboot = dir.join("netboot.efi");
    artifacts::netboot_image(&scene.site, scene.flavour, "", &netboot).unwrap();
    let keys = [keys[0].as_path(), keys[1].as_path()];
    let [uki, manifest] = scene.published.add_measured_debian("2", &dir.join("second"), keys, &netboot).unwrap();
    scene.lab.serve_netboot(&netboot).unwrap();
    let [alone, behind] = predicted(&uki, &netboot);
    let calculated = calculated(&uki, &dir);
    assert_eq!(alone, calculated);
    assert_ne!(alone, behind);

    let attestation = Attestation { url: format!("https://{NAME}:{VERIFIER}"), policy: AttestationPolicy::Required };
    let mut host = Host {
        tpm: TpmPolicy::Required,
        pcr11: Pcr11Need::Signed,
        boot_order: BootOrder::DiskFirst,
        attestation: Some(attestation),
        ..scene.host.clone()
    };
    host.release.version = "2".to_owned();
    scene.published.add_default_host(&host).unwrap();
    let verifier = verifier(&scene, &tpm, [&netboot, &manifest]);

    // Over HTTP. The installer's UKI is in PCR 11 before the OS's.
    let proof = Proof::new(&dir.join("proof"), keys[1]).unwrap();
    proof.prepare(true, &[]).unwrap();
    let machine = Machine::builder("machine").memory(1024).tpm(&tpm).disk(Disk::nvme(DISK).serial(SERIAL));
    let mut machine = proof.equip(machine).firmware_http_boot().start(&scene.lab).unwrap();
    let tpm_seconds = installed(&machine);
    note(&json!({"seconds": {"tpm_work_attested": tpm_seconds}})).unwrap();
    assert!((0.001..=TPM_WORK).contains(&tpm_seconds), "{tpm_seconds}");
    let first = proof.findings(&machine, "netboot-kexec").unwrap();
    note_boot("netboot_uki", "kexec", &first, "pcr11_predicted", &behind);
    assert_eq!(confirmed(&scene), 1);
    let mut unaccounted = accounted(&first);
    drop(verifier);
    check_report(&scene, &manifest);

    // From its disk, with the quote for tpm2_checkquote.
    let kept = Kept::read(&dir.join("kept")).unwrap();
    machine.power_off().unwrap();
    proof.prepare(false, &kept.files().unwrap()).unwrap();
    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    let cold = proof.findings(&machine, "netboot-cold").unwrap();
    note_boot("netboot_uki", "cold", &cold, "pcr11_systemd_measure", &calculated);
    assert!(cold.luks_unlocked_in_initrd, "{}", cold.text("said").unwrap());
    assert!(cold.copies().unwrap() == first.copies().unwrap(), "the plug has changed the copies of the logs");
    let judged = ["quote", "quote-of-another-nonce"].map(|name| cold.text(name).unwrap());
    assert_eq!(judged, ["taken\n", "refused\n"], "{}", cold.text("said").unwrap());
    note(&json!({"tpm2_checkquote": "ok"})).unwrap();

    // As kernel and initrd: PCR 11 is zero before the OS's UKI. Nothing here proves to a verifier which initrd it was.
    host.attestation = None;
    scene.published.add_default_host(&host).unwrap();
    machine.power_off().unwrap();
    proof.prepare(false, &[]).unwrap();
    let kernel = scene.flavour.kernel().unwrap().vmlinuz;
    let [initrd, cmdline] = ["initrd", "cmdline"].map(|name| netboot.with_extension(name));
    let cmdline = fs::read_to_string(cmdline).unwrap();
    let start = |builder: metalstrap_qemu::Builder| builder.direct_boot_with_uefi(&kernel, Some(&initrd), &cmdline);
    let mut machine = machine.power_cycle(start).unwrap();
    installed(&machine);
    let second = proof.findings(&machine, "kernel-kexec").unwrap();
    note_boot("kernel_initrd", "kexec", &second, "pcr11_predicted", &alone);
    assert!(second.luks_unlocked_in_initrd, "{}", second.text("said").unwrap());
    assert_eq!(confirmed(&scene), 2);
    unaccounted.extend(accounted(&second));
    assert_eq!(unaccounted, Vec::<String>::new());
    note(&json!({"unaccounted_extends": unaccounted.len()})).unwrap();

    machine.power_off().unwrap();
    proof.prepare(false, &[]).unwrap();
    let machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    let cold = proof.findings(&machine, "kernel-cold").unwrap();
    note_boot("kernel_initrd", "cold", &cold, "pcr11_systemd_measure", &calculated);
    assert!(cold.luks_unlocked_in_initrd, "{}", cold.text("said").unwrap());
    assert_eq!(confirmed(&scene), 2, "a boot from the disk has confirmed a kexec");
    assert!(cold.copies().unwrap() == second.copies().unwrap(), "the plug has changed the copies of the logs");
    drop(machine);
    scene.passed().unwrap();
}

/// Private and public half of a key that signs policies for PCR 11.
fn pcr_keys(dir: &Path) -> [PathBuf; 2] {
    for line in ["genrsa -out pcr.pem 2048", "rsa -in pcr.pem -pubout -out pcr.pub"] {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    ["pcr.pem", "pcr.pub"].map(|name| dir.join(name))
}

/// What `metalstrap predict` says of PCR 11 in each phase: started alone, and behind the netboot UKI.
fn predicted(uki: &Path, netboot: &Path) -> [[String; 4]; 2] {
    let words: [&OsStr; 5] =
        ["predict".as_ref(), uki.as_os_str(), "--netboot".as_ref(), netboot.as_os_str(), "--json".as_ref()];
    let said = metalstrap_json(&words).unwrap();
    ["/pcr11", "/chains/0/pcr11"].map(|place| in_each_phase(said.pointer(place).unwrap()))
}

/// What systemd-measure calculates of the UKI's sections, for each phase.
fn calculated(uki: &Path, dir: &Path) -> [String; 4] {
    let bytes = fs::read(uki).unwrap();
    let sections = Sections::parse(&bytes[..HEAD_BYTES]).unwrap();
    let mut command = Command::new(built("systemd-measure").unwrap().join("systemd-measure"));
    command.args(["calculate", "--json=short", "--bank=sha256"]).args(PHASES.map(|phase| format!("--phase={phase}")));
    for name in ["linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "uname", "sbat", "pcrpkey", "profile"]
    {
        let Some(section) = sections.get(&format!(".{name}")) else { continue };
        let file = dir.join(format!("section.{name}"));
        fs::write(&file, read_section(&mut Cursor::new(&bytes), section, MAX_SECTION).unwrap()).unwrap();
        command.arg(format!("--{name}={}", file.display()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    in_each_phase(&serde_json::from_slice(&output.stdout).unwrap())
}

/// The values in the bank of SHA-256, in what both of them print.
fn in_each_phase(calculated: &Value) -> [String; 4] {
    let all = calculated["sha256"].as_array().unwrap();
    PHASES.map(|phase| {
        let found = all.iter().find(|entry| entry["phase"] == phase).unwrap();
        found["hash"].as_str().unwrap().to_owned()
    })
}

/// How often an OS has told the server that a kexec has led to it.
fn confirmed(scene: &Scene) -> usize {
    let reports = scene.lab.reports().unwrap();
    reports.iter().filter(|event| event["step"] == "run" && event["state"] == "confirmed").count()
}

/// The plan says kexec although the host config wants a signed policy that fits, and so it comes. For how many seconds the
/// TPM was waited for.
fn installed(machine: &Machine<'_>) -> f64 {
    let is_end = |event: &Value| event["step"] == "run" && event["state"] == "finished";
    let end = machine.serial().wait_for_event("the end of the run", minutes(15), is_end).unwrap();
    assert_eq!(plan(machine).unwrap()["handoff"], json!({"ending": "kexec", "reasons": []}));
    end.value["fields"]["tpm_seconds"].as_f64().unwrap()
}

/// Notes what a boot has shown, PCR 11 when all is up; in each phase it must be what it should be.
fn note_boot(start: &str, boot: &str, found: &Findings, oracle: &str, expected: &[String; 4]) {
    let shown = json!({"pcr11_measured": found.pcr11[3], oracle: expected[3], "luks_unlocked": found.luks_unlocked});
    note(&json!({start: {boot: shown}})).unwrap();
    assert_eq!(&found.pcr11, expected, "{start} {boot}");
    assert!(found.luks_unlocked, "{start} {boot}: {}", found.text("said").unwrap());
}

/// What the logs do not account for. systemd-pcrlock must have nothing against them, and the OS has put copies on its disk.
fn accounted(found: &Findings) -> Vec<String> {
    found.check_copies().unwrap();
    assert_eq!(found.pcrlock().unwrap(), Vec::<String>::new());
    found.unaccounted().unwrap()
}

/// The verifier, until it is dropped.
struct Verifier(Child);

impl Drop for Verifier {
    /// What it started in the lab's namespace ends with that.
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `metalstrap attest serve` in the lab's network, with the certificate of the lab's server: it believes the maker of this TPM, and
/// expects this netboot image and release, the host config that was signed last, and no Secure Boot. A machine of which one of these
/// is not proved is refused.
fn verifier(scene: &Scene, tpm: &Swtpm, [netboot, manifest]: [&Path; 2]) -> Verifier {
    let dir = scene.run.path();
    let roots = dir.join("ek-roots.pem");
    fs::write(&roots, tpm.authority().unwrap()).unwrap();
    let mut command = scene.lab.command(program("debug", "metalstrap").unwrap());
    command.args(["attest", "serve", "--first-use", "accept", "--listen", &format!("{GATEWAY}:{VERIFIER}")]);
    for (option, path) in [
        ("--tls-certificate", dir.join("lab/ca/server.pem")),
        ("--tls-key", dir.join("lab/ca/server.key")),
        ("--accepted", dir.join("accepted.json")),
        ("--ek-roots", roots),
        ("--netboot", netboot.to_owned()),
        ("--release", manifest.to_owned()),
        ("--host-config", scene.published.host_config()),
        ("--secure-boot", "off".into()),
        ("--keep", dir.join("kept")),
    ] {
        command.arg(option).arg(path);
    }
    let log = File::create(dir.join("verifier.log")).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let verifier = Verifier(child);
    let mut said = BufReader::new(output);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    // What it says later must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    verifier
}

/// `metalstrap attest report` accepts the final event as the server has it: both logs account for all that the installer's TPM has
/// quoted there, and the key is that of the exchange.
fn check_report(scene: &Scene, manifest: &Path) {
    let dir = scene.run.path();
    let lines: String = scene.lab.reports().unwrap().iter().map(|event| format!("{event}\n")).collect();
    fs::write(dir.join("events.ndjson"), lines).unwrap();
    let mut kept = fs::read_dir(dir.join("kept")).unwrap().map(|entry| entry.unwrap().path());
    let introduction = kept.find(|path| path.to_string_lossy().ends_with(".introduction.json")).unwrap();
    let (events, roots) = (dir.join("events.ndjson"), dir.join("ek-roots.pem"));
    let host_config = scene.published.host_config();
    let mut words: Vec<&OsStr> = ["attest", "report", "--format", "json"].map(OsStr::new).to_vec();
    words.push(events.as_os_str());
    for (option, path) in [
        ("--ek-roots", roots.as_path()),
        ("--introduction", introduction.as_path()),
        ("--host-config", host_config.as_path()),
        ("--release", manifest),
    ] {
        words.extend([OsStr::new(option), path.as_os_str()]);
    }
    let verdict = metalstrap_json(&words).unwrap();
    assert_eq!(verdict["accepted"], true, "{verdict}");
}
