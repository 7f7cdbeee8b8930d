//! `metalstrap publish --sysupdate` as an operator runs it; sha256sum, gzip and gpgv judge what it lays out.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod support;

use support::{Inputs, contents, files};

const URL: &str = "https://os.example/repo/";

/// Publishes a version into the repository of the inputs.
fn publish(inputs: &Inputs, version: &str, more: &[&str]) -> Output {
    publish_as(inputs, "os", version, more)
}

fn publish_as(inputs: &Inputs, name: &str, version: &str, more: &[&str]) -> Output {
    let keys = inputs.path("keys");
    let metalstrap = || Command::new(env!("CARGO_BIN_EXE_metalstrap"));
    if !keys.exists() {
        assert!(metalstrap().args(["keygen", "--keys"]).arg(&keys).status().unwrap().success());
    }
    let mut command = metalstrap();
    command.args(["publish", "--name", name, "--level", "1", "--version", version]).args(more);
    for name in ["root", "verity", "uki", "loader", "repository", "keys"] {
        command.arg(format!("--{name}")).arg(inputs.path(name));
    }
    command.env("GNUPGHOME", inputs.path("gnupg")).output().unwrap()
}

fn lay_out(inputs: &Inputs, version: &str, more: &[&str]) {
    let output = publish(inputs, version, &[&["--sysupdate", URL], more].concat());
    assert!(output.status.success(), "{output:?}");
}

/// Where the files are.
fn place(inputs: &Inputs) -> PathBuf {
    inputs.path("repository/sysupdate/os")
}

/// The names of a release's files, whose root hash is that of the inputs.
fn names(inputs: &Inputs, version: &str) -> [String; 3] {
    let half = |hex: &str| {
        let parts: Vec<&str> = [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().map(|part| &hex[part]).collect();
        parts.join("-")
    };
    let (data, verity) = inputs.root_hash.split_at(32);
    [
        format!("os_{version}.root-verity-x86-64.{}.raw", half(verity)),
        format!("os_{version}.root-x86-64.{}.raw.gz", half(data)),
        format!("os_{version}.uki-x86-64.efi"),
    ]
}

/// What `sha256sum --check` says of the list, which must be true.
fn listed(place: &Path) -> Vec<String> {
    let output = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(place).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.strip_suffix(": OK").unwrap().to_owned()).collect()
}

#[test]
fn a_release_is_laid_out_whole_and_the_same_again() {
    let inputs = Inputs::new();
    lay_out(&inputs, "1", &[]);
    let place = place(&inputs);
    let [verity, root, uki] = names(&inputs, "1");
    assert_eq!(listed(&place), [&verity, &root, &uki].map(String::as_str));
    assert_eq!(files(&place), ["SHA256SUMS", &verity, &root, &uki, "sysupdate.d"]);
    let read = |name: &str| fs::read(place.join(name)).unwrap();
    let unpacked = Command::new("gzip").args(["-d", "-c"]).arg(place.join(&root)).output().unwrap();
    assert!(unpacked.status.success() && unpacked.stdout == fs::read(inputs.path("root")).unwrap());
    assert!(read(&verity) == fs::read(inputs.path("verity")).unwrap());
    assert!(read(&uki) == fs::read(inputs.path("uki")).unwrap());

    let first: Vec<_> = files(&place).into_iter().filter(|name| name != "sysupdate.d").collect();
    let before: Vec<_> = first.iter().map(|name| (read(name), modified(&place.join(name)))).collect();
    lay_out(&inputs, "1", &[]);
    let after: Vec<_> = first.iter().map(|name| (read(name), modified(&place.join(name)))).collect();
    assert!(before == after, "the same again writes nothing");
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn transfer_definitions_name_what_is_laid_out() {
    let inputs = Inputs::new();
    lay_out(&inputs, "1", &[]);
    let place = place(&inputs).join("sysupdate.d");
    assert_eq!(files(&place), ["10-root-verity.transfer", "20-root.transfer", "30-uki.transfer"]);
    let head = "# As `metalstrap publish` wrote it, for /usr/lib/sysupdate.d of the image.\n\
                [Transfer]\nProtectVersion=%A\nVerify=no\n\n\
                [Source]\nType=url-file\nPath=https://os.example/repo/sysupdate/os\n";
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(
        read("10-root-verity.transfer"),
        format!(
            "{head}MatchPattern=os_@v.root-verity-x86-64.@u.raw\n\n[Target]\nType=partition\nPath=auto\n\
             MatchPattern=os_@v_verity\nMatchPartitionType=root-verity\nReadOnly=yes\n"
        )
    );
    assert_eq!(
        read("20-root.transfer"),
        format!(
            "{head}MatchPattern=os_@v.root-x86-64.@u.raw.gz\n\n[Target]\nType=partition\nPath=auto\n\
             MatchPattern=os_@v\nMatchPartitionType=root\nReadOnly=yes\n"
        )
    );
    assert_eq!(
        read("30-uki.transfer"),
        format!(
            "{head}MatchPattern=os_@v.uki-x86-64.efi\n\n[Target]\nType=regular-file\nPath=/EFI/Linux\n\
             PathRelativeTo=esp\nMatchPattern=os_@v+@l-@d.efi os_@v+@l.efi os_@v.efi\n\
             TriesLeft=3\nTriesDone=0\nInstancesMax=2\n"
        )
    );
}

#[test]
fn the_debian_image_has_the_definitions_that_are_written_for_it() {
    let inputs = Inputs::new();
    let output = publish_as(&inputs, "debian", "1", &["--sysupdate", "https://repo.test:8443"]);
    assert!(output.status.success(), "{output:?}");
    let written = inputs.path("repository/sysupdate/debian/sysupdate.d");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mkosi.extra/usr/lib/sysupdate.d");
    assert_eq!(files(&image), files(&written));
    for name in files(&image) {
        assert_eq!(fs::read_to_string(image.join(&name)).unwrap(), fs::read_to_string(written.join(&name)).unwrap());
    }
}

#[test]
fn the_list_has_the_releases_of_the_repository_and_no_other() {
    let inputs = Inputs::new();
    assert!(publish(&inputs, "1", &[]).status.success());
    assert!(!inputs.path("repository/sysupdate").exists(), "it is laid out only when asked for");
    lay_out(&inputs, "1", &[]);
    let place = place(&inputs);
    // One that was laid out once and is no release any more.
    let gone = "os_0.uki-x86-64.efi";
    fs::write(place.join(gone), "a").unwrap();
    let list = fs::read_to_string(place.join("SHA256SUMS")).unwrap();
    let line = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    fs::write(place.join("SHA256SUMS"), format!("{line}  {gone}\n{list}")).unwrap();
    assert_eq!(listed(&place).len(), 4);
    lay_out(&inputs, "2", &[]);
    let expected = [names(&inputs, "1"), names(&inputs, "2")].concat();
    assert_eq!(listed(&place), expected);
    assert!(!place.join(gone).exists());
}

#[test]
fn what_got_lost_is_made_again() {
    let inputs = Inputs::new();
    lay_out(&inputs, "1", &[]);
    let place = place(&inputs);
    let [verity, root, uki] = names(&inputs, "1");
    let read = || [&verity, &root, &uki].map(|name| fs::read(place.join(name)).unwrap());
    let first = (read(), contents(&inputs.path("repository")));
    fs::remove_file(place.join(&root)).unwrap();
    fs::write(place.join(&uki), "damaged").unwrap();
    fs::write(place.join(".new-left"), "of a killed run").unwrap();
    lay_out(&inputs, "1", &[]);
    assert!((read(), contents(&inputs.path("repository"))) == first);
    assert_eq!(listed(&place).len(), 3);
    assert!(!place.join(".new-left").exists());
}

#[test]
fn the_list_is_signed_by_gpg() {
    let inputs = Inputs::new();
    let home = inputs.path("gnupg");
    fs::create_dir(&home).unwrap();
    let gpg = |words: &[&str]| {
        let output = Command::new("gpg").env("GNUPGHOME", &home).arg("--batch").args(words).output();
        let output = output.expect("gpg, of Debian's package gnupg");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    gpg(&["--passphrase", "", "--quick-generate-key", "os@example", "ed25519", "sign", "never"]);
    fs::write(inputs.path("ring.gpg"), gpg(&["--export", "os@example"])).unwrap();
    lay_out(&inputs, "1", &["--sysupdate-key", "os@example"]);
    let place = place(&inputs);
    let verifies = || {
        let mut gpgv = Command::new("gpgv");
        gpgv.arg("--keyring").arg(inputs.path("ring.gpg")).args(["SHA256SUMS.gpg", "SHA256SUMS"]);
        gpgv.current_dir(&place).output().unwrap().status.success()
    };
    assert!(verifies());
    let first = fs::read(place.join("SHA256SUMS.gpg")).unwrap();
    let definition = fs::read_to_string(place.join("sysupdate.d/30-uki.transfer")).unwrap();
    assert!(definition.contains("\nVerify=yes\n"), "{definition}");
    lay_out(&inputs, "1", &["--sysupdate-key", "os@example"]);
    assert!(fs::read(place.join("SHA256SUMS.gpg")).unwrap() == first, "what is signed is not signed again");
    lay_out(&inputs, "2", &["--sysupdate-key", "os@example"]);
    assert!(verifies() && listed(&place).len() == 6);

    let refusal = |more: &[&str]| {
        let output = publish(&inputs, "3", &[&["--sysupdate", URL], more].concat());
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        text.replace(inputs.directory.path().to_str().unwrap(), "D").lines().last().unwrap().to_owned()
    };
    assert_eq!(
        refusal(&[]),
        "metalstrap: D/repository/sysupdate/os/SHA256SUMS.gpg is there, so machines want the list signed: give \
         --sysupdate-key, or remove that file"
    );
    assert!(verifies() && listed(&place).len() == 6);
    assert_eq!(
        refusal(&["--sysupdate-key", "nobody@example"]),
        "metalstrap: laying os 3 out for systemd-sysupdate: signing SHA256SUMS by gpg with the key nobody@example: it ended \
         with exit status: 2"
    );
    assert!(verifies() && listed(&place).len() == 6, "without its signature the list stays as it was");
}

#[test]
fn a_url_that_systemd_pull_does_not_take_is_refused() {
    let inputs = Inputs::new();
    let output = publish(&inputs, "1", &["--sysupdate", "file:///srv/os"]);
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "metalstrap: --sysupdate file:///srv/os: it is no http or https URL\n"
    );
    assert!(!inputs.path("repository").exists(), "nothing is published");
}
