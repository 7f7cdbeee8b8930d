//! systemd-creds is the judge of the format, cpio of the archive.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use metalstrap_release::digest::Digest;

use super::*;
use crate::failure::code_of;
use crate::secure_boot::SECURE_BOOT;

/// Gives a command its input.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What systemd-creds makes of the file of the credential `name`; its complaint if it takes it not.
fn decrypt(name: &str, file: &[u8]) -> Result<Vec<u8>, String> {
    // Since systemd 256 it can be told to take the null key also on a machine with a TPM and Secure Boot.
    let help = Command::new("systemd-creds").arg("--help").output().unwrap();
    let may_be_told = String::from_utf8(help.stdout).unwrap().contains("--allow-null");
    let mut command = Command::new("systemd-creds");
    command.args(may_be_told.then_some("--allow-null")).arg(format!("--name={name}")).args(["decrypt", "-", "-"]);
    let output = run(command.env("LC_ALL", "C"), file);
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}

fn host(credentials: &str) -> Host {
    let text = format!(r#"{{"format": 1, "release": {{"name": "a", "version": "1"}}, "credentials": {credentials}}}"#);
    Host::parse(text.as_bytes()).unwrap()
}

/// As systemd-creds takes it: it reads base64 only.
fn in_base64(one: &Sealed) -> Vec<u8> {
    if one.bytes.starts_with(&[0x05, 0x84]) { STANDARD.encode(&one.bytes).into_bytes() } else { one.bytes.clone() }
}

#[test]
fn systemd_decrypts_what_is_sealed() {
    let long = "0123456789abcdef".repeat(4096);
    let all = host(&format!(
        r#"{{"system.hostname": {{"text": "web-1"}}, "ssh.authorized_keys.root": {{"text": "ssh-ed25519 AAAA x\n"}},
            "a": {{"text": ""}}, "b": {{"base64": "AAECAwQF/v8="}}, "long": {{"text": "{long}"}}}}"#
    ));
    let sealed = seal_all(&all).unwrap();
    let found: Vec<_> =
        sealed.iter().map(|one| (one.name.as_str(), one.size, decrypt(&one.name, &in_base64(one)).unwrap())).collect();
    let expected = [
        ("a", Some(0), Vec::new()),
        ("b", Some(8), vec![0, 1, 2, 3, 4, 5, 0xfe, 0xff]),
        ("long", Some(65_536), long.into_bytes()),
        ("ssh.authorized_keys.root", Some(19), b"ssh-ed25519 AAAA x\n".to_vec()),
        ("system.hostname", Some(5), b"web-1".to_vec()),
    ];
    assert_eq!(found, expected);
    assert!(sealed[4].bytes.starts_with(&[0x05, 0x84]), "PID 1 reads it not encoded");
    assert_eq!(sealed, seal_all(&all).unwrap());
}

#[test]
fn systemd_takes_it_by_its_name_and_as_it_is() {
    let [one]: [Sealed; 1] = seal_all(&host(r#"{"motd": {"text": "hello"}}"#)).unwrap().try_into().unwrap();
    let error = decrypt("other", &one.bytes).unwrap_err();
    assert!(error.contains("Embedded credential name 'motd' does not match filename 'other', refusing."), "{error}");
    let mut raw = STANDARD.decode(one.bytes.trim_ascii_end()).unwrap();
    for at in [20, 33, 50, raw.len() - 20, raw.len() - 1] {
        raw[at] ^= 1;
        assert!(decrypt("motd", STANDARD.encode(&raw).as_bytes()).is_err(), "a bit of byte {at}");
        raw[at] ^= 1;
    }
    assert_eq!(decrypt("motd", STANDARD.encode(&raw).as_bytes()).unwrap(), b"hello");
}

#[test]
fn systemd_seals_alike() {
    let mut command = Command::new("systemd-creds");
    command.args(["--with-key=tpm2-absent", "--name=motd", "encrypt", "-", "-"]);
    let output = run(&mut command, b"hello");
    assert!(output.status.success(), "{output:?}");
    // Lines of base64.
    let text: Vec<u8> = output.stdout.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let (theirs, ours) = (STANDARD.decode(text).unwrap(), seal("motd", b"hello").unwrap());
    assert_eq!((&theirs[..32], theirs.len()), (&ours[..32], ours.len()));
}

#[test]
fn the_archive_is_that_of_systemd_stub() {
    let sealed = seal_all(&host(r#"{"a": {"text": "x"}, "a-b": {"text": "y"}, "system.hostname": {"text": "z"}}"#));
    let sealed = sealed.unwrap();
    let archive = archive(&sealed);
    let list = run(Command::new("cpio").args(["-tv", "--quiet", "--numeric-uid-gid"]).env("LC_ALL", "C"), &archive);
    assert!(list.status.success(), "{list:?}");
    let list = String::from_utf8(list.stdout).unwrap();
    let seen: Vec<(&str, &str)> = list
        .lines()
        .map(|line| (line.split_whitespace().next().unwrap(), line.split_whitespace().last().unwrap()))
        .collect();
    let expected = [
        ("dr-xr-xr-x", ".extra"),
        ("dr-x------", ".extra/global_credentials"),
        ("-r--------", ".extra/global_credentials/a-b.cred"),
        ("-r--------", ".extra/global_credentials/a.cred"),
        ("-r--------", ".extra/global_credentials/system.hostname.cred"),
    ];
    assert_eq!(seen, expected);
    let place = tempfile::tempdir().unwrap();
    let unpacked = run(Command::new("cpio").args(["-i", "--quiet"]).current_dir(place.path()), &archive);
    assert!(unpacked.status.success(), "{unpacked:?}");
    for one in &sealed {
        let path = place.path().join(".extra/global_credentials").join(one.file());
        assert_eq!(fs::read(path).unwrap(), one.bytes, "{}", one.name);
    }
    // What a boot from the disk measures into PCR 12, and what this writes for good.
    assert!(archive.starts_with(b"070701000000010000416d0000000000000000000000010000000000000000"), "{archive:?}");
    assert_eq!(archive.len() % 4, 0);
    assert_eq!(super::archive(&[]), b"");
}

#[test]
fn the_bytes_never_change() {
    let sealed = seal_all(&host(r#"{"motd": {"text": "hello"}, "system.hostname": {"text": "z"}}"#)).unwrap();
    let digests: Vec<_> = sealed.iter().map(|one| Digest::of(&one.bytes).to_string()).collect();
    // Computed by another implementation, which systemd-creds had decrypted.
    let expected = [
        "1f55149fcc88720263f83b1c6170332595cbf628466c4761207932e0354fd614",
        "4bdea66af25db58cbfaf47fb3e684b0fb8202f2d186e8d1cdfb87a34c093915e",
    ];
    assert_eq!(digests, expected);
}

#[test]
fn a_machine_gets_what_it_says_of_itself_or_nothing_happens() {
    let host = host(r#"{"system.hostname": {"text": "web-${serial}"}}"#);
    let machine = Identity { serial: Some("7XK".to_owned()), ..Identity::default() };
    let [one]: [Sealed; 1] = seal_all(&for_machine(host.clone(), &machine).unwrap()).unwrap().try_into().unwrap();
    assert_eq!(decrypt("system.hostname", &in_base64(&one)).unwrap(), b"web-7XK");
    let text = "the host config's credentials hold \"system.hostname\", which has ${serial} in line 1, but the machine says no \
                serial number";
    let error = for_machine(host.clone(), &Identity::default()).unwrap_err();
    assert_eq!((code_of(&error), error.to_string()), (Code::Credentials, text.to_owned()));
    // Nor is a variable ever sealed as it stands.
    let error = seal_all(&host).unwrap_err();
    assert_eq!((code_of(&error), error.to_string()), (Code::Credentials, text.to_owned()));
}

#[test]
fn only_secure_boot_and_a_tpm_together_stand_in_the_way() {
    let sys = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = sys.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    // As it is, and once keys are enrolled.
    let refused = || [SecureBoot::Now, SecureBoot::Enrolled].map(|which| refusal(sys.path(), which));
    let why = "a TPM 2.0: there systemd takes no credentials that are not sealed to the TPM, as only `secrets` are";
    let now = "this machine has Secure Boot on and";
    let enrolled = "this machine will have Secure Boot on once the host config's keys are enrolled, and it has";
    let [now, enrolled] = [now, enrolled].map(|has| Some(format!("{has} {why}")));
    assert_eq!(refused(), [None, None]);
    write(SECURE_BOOT, &[6, 0, 0, 0, 1]);
    assert_eq!(refused(), [None, None]);
    write("class/tpm/tpm0/tpm_version_major", b"1\n");
    assert_eq!(refused(), [None, None]);
    write("class/tpm/tpm0/tpm_version_major", b"2\n");
    assert_eq!(refused(), [now.clone(), enrolled.clone()]);
    write("class/tpm/tpm0/tpm_version_major", b"1\n");
    write("firmware/acpi/tables/TPM2", b"");
    assert_eq!(refused(), [now, enrolled.clone()]);
    write(SECURE_BOOT, &[6, 0, 0, 0, 0]);
    assert_eq!(refused(), [None, enrolled]);
}

#[test]
fn nothing_shows_the_content() {
    let sealed = seal_all(&host(r#"{"motd": {"text": "hush"}}"#)).unwrap();
    assert_eq!(format!("{sealed:?}"), "[Sealed { name: \"motd\", size: Some(4), .. }]");
    assert_eq!(serde_json::to_string(&sealed[0].listed()).unwrap(), r#"{"name":"motd","size":4}"#);
}
