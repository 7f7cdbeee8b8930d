use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;

use metalstrap_release::site::Site;
use serde_json::json;

use super::*;
use crate::failure::code_of;
use crate::media::tests::{Drives, USB, disc};
use crate::refusals::published::good;

/// A site config with this repository, or none.
pub(super) fn site(repository: Option<&str>) -> Discovery {
    let mut site = json!({
        "format": 1,
        "root": good().trusted_root(),
        "ca": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    });
    if let Some(repository) = repository {
        site["repository"] = repository.into();
    }
    Discovery::new(Site::parse(site.to_string().as_bytes()).unwrap())
}

/// What was measured and said.
pub(super) fn told(look: impl FnOnce(&mut Measure<'_>, &dyn Fn(&str)) -> Result<()>) -> (Vec<String>, Vec<String>) {
    let (mut measured, said) = (Vec::new(), RefCell::new(Vec::new()));
    let mut measure = |what: &str, bytes: &[u8]| {
        measured.push(format!("{what}: {}", String::from_utf8_lossy(bytes)));
        Ok(())
    };
    look(&mut measure, &|text| said.borrow_mut().push(text.to_owned())).unwrap();
    (measured, said.into_inner())
}

#[derive(Debug, Default)]
struct Firmware(Vec<(&'static str, Vec<u8>)>);

impl Variables for Firmware {
    fn names(&self) -> Result<BTreeSet<String>> {
        Ok(self.0.iter().map(|(name, _)| (*name).to_owned()).collect())
    }
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.iter().find(|(known, _)| *known == name).map(|(_, data)| data.clone()))
    }
    fn write(&self, _: &str, _: &[u8]) -> Result<()> {
        anyhow::bail!("discovery writes nothing")
    }
    fn remove(&self, _: &str) -> Result<()> {
        anyhow::bail!("discovery removes nothing")
    }
}

/// A machine in a directory.
struct Machine(tempfile::TempDir, Sources);

impl Machine {
    fn new(variables: &[(&'static str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let variables = variables.iter().map(|(name, text)| (*name, utf16(text))).collect();
        let sources = Sources {
            command_line: place.path().join("cmdline"),
            smbios: place.path().join("DMI"),
            variables: Box::new(Firmware(variables)),
            sys: place.path().join("sys"),
            dev: place.path().join("dev"),
        };
        Self(place, sources)
    }

    fn command_line(self, line: &str) -> Self {
        fs::write(&self.1.command_line, line).unwrap();
        self
    }

    /// OEM strings, all in one structure.
    fn smbios(self, strings: &[&str]) -> Self {
        let count = u8::try_from(strings.len()).unwrap();
        let mut table = vec![11, 5, 0, 0, count];
        strings.iter().for_each(|text| table.extend([text.as_bytes(), &[0]].concat()));
        table.extend([0, 127, 4, 1, 0, 0, 0]);
        fs::write(&self.1.smbios, table).unwrap();
        self
    }

    fn look(&self, discovery: &mut Discovery) -> (Vec<String>, Vec<String>) {
        told(|measure, say| self.1.look(discovery, measure, say))
    }

    /// The error's text, with the directory cut out of it.
    fn refusal(&self) -> String {
        let error = self.1.look(&mut site(None), &mut |_, _| Ok(()), &|_| {}).unwrap_err();
        assert_eq!(code_of(&error), Code::Discovery);
        format!("{error:#}").replace(self.0.path().to_str().unwrap(), "DIR")
    }
}

#[test]
fn a_machine_that_says_nothing_measures_nothing() {
    let mut discovery = site(Some("https://site.test"));
    let silent = Machine::new(&[("LoaderDeviceURL", "https://boot.test/netboot.efi\0")])
        .command_line("panic=30 console=ttyS0\n")
        .smbios(&["io.systemd.credential:other=metalstrap.host=x"]);
    assert_eq!(silent.look(&mut discovery), (Vec::new(), Vec::new()));
    // Nor one without SMBIOS, firmware variables and command line.
    assert_eq!(Machine::new(&[]).look(&mut discovery), (Vec::new(), Vec::new()));
    assert_eq!(lines(&discovery), Vec::<String>::new());
    assert_eq!(host(&discovery).unwrap().as_deref(), Some("site.test"));
}

#[test]
fn each_source_is_measured_before_it_counts_and_the_first_one_wins() {
    let mut discovery = site(None);
    let line = "quiet metalstrap.connections=2 metalstrap.host=serial-7XK\n";
    let strings =
        ["io.systemd.credential:metalstrap.connections=3", "io.systemd.credential:metalstrap.network_timeout=9"];
    let machine =
        Machine::new(&[("StubDeviceURL", "https://stub.test/x/netboot.efi\0")]).command_line(line).smbios(&strings);
    let (measured, said) = machine.look(&mut discovery);
    assert_eq!(measured[..2], [format!("boot-cmdline: {line}"), format!("smbios: {}", strings.join("\n"))]);
    assert!(measured.len() == 3 && measured[2].starts_with("boot-url: h\0t\0"), "{measured:?}");
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(
        lines(&discovery),
        [
            "repository from the boot URL: https://stub.test/x",
            "host from the kernel command line: serial-7XK",
            "connections from the kernel command line: 2",
            "network_timeout from the SMBIOS table: 9",
        ]
    );
    assert_eq!(host(&discovery).unwrap().as_deref(), Some("stub.test"));
}

#[test]
fn a_medium_is_measured_before_it_counts_and_behind_the_sources_before_it() {
    let settings = b"metalstrap.connections=3\nmetalstrap.host=default\n";
    let drives = Drives::new().with(&format!("{USB}/sr0"), &[], &disc("METALSTRAP", &[("SETTINGS.TXT;1", settings)]));
    let mut machine = Machine::new(&[]).command_line("metalstrap.connections=2");
    let mut discovery = site(None);
    assert_eq!(machine.look(&mut discovery).1, Vec::<String>::new());
    let medium =
        |machine: &Machine, discovery: &mut Discovery| told(|measure, say| machine.1.medium(discovery, measure, say));
    assert_eq!(medium(&machine, &mut discovery), (Vec::new(), Vec::new()));
    (machine.1.sys, machine.1.dev) = (drives.sys(), drives.dev());
    let (measured, said) = medium(&machine, &mut discovery);
    assert_eq!(measured, ["medium: metalstrap.connections=3\nmetalstrap.host=default\n"]);
    assert_eq!(said, Vec::<String>::new());
    let expected = ["host from the labelled medium sr0: default", "connections from the kernel command line: 2"];
    assert_eq!(lines(&discovery), expected);
}

#[test]
fn many_words_that_cannot_be_taken_make_no_endless_message() {
    let line = (0..10).map(|number| format!("metalstrap.connections=0{number} ")).collect::<String>();
    let text = Machine::new(&[]).command_line(&line).refusal();
    let twice = "the kernel command line sets metalstrap.connections twice";
    let first = "the kernel command line's metalstrap.connections is 0, not 1 to 16";
    assert_eq!(text, format!("{first}; {}; and 2 more", [twice; 7].join("; ")));
}

#[test]
fn words_that_cannot_be_taken_are_refused_all_at_once() {
    let machine = Machine::new(&[]).command_line("metalstrap.host metalstrap.connections=99");
    assert_eq!(
        machine.refusal(),
        "the kernel command line's metalstrap.host has no value; \
         the kernel command line's metalstrap.connections is 99, not 1 to 16"
    );
    let machine = Machine::new(&[]).smbios(&["io.systemd.credential:metalstrap.host=x"]);
    let form = "\"x\" is no host: not `default`, `uuid-…`, `serial-…` or `mac-…`";
    assert_eq!(machine.refusal(), format!("the SMBIOS table's metalstrap.host cannot be taken: {form}"));
    let machine = Machine::new(&[]).smbios(&["io.systemd.credential.binary:metalstrap.host=eA=="]);
    assert_eq!(
        machine.refusal(),
        "reading DIR/DMI: SMBIOS has a setting as io.systemd.credential.binary:, but settings are text: \
         io.systemd.credential:metalstrap.KEY=VALUE"
    );
    fs::write(&machine.1.smbios, b"\x0b\x03\0\0metalstrap.").unwrap();
    assert_eq!(
        machine.refusal(),
        "reading DIR/DMI: the SMBIOS table is damaged: the structure at byte 0 says that it has 3 bytes"
    );
}

#[test]
fn a_boot_url_that_names_no_repository_is_said_and_passed_over() {
    for (url, expected) in [
        ("http://boot.test/netboot.efi\0", "\"http://boot.test/netboot.efi\" is not an https:// URL"),
        ("https://a\0b\0", "it is no text in UTF-16"),
    ] {
        let mut discovery = site(None);
        let (_, said) = Machine::new(&[("LoaderDeviceURL", url)]).look(&mut discovery);
        assert_eq!(said, [format!("the EFI variable LoaderDeviceURL names no repository: {expected}")]);
        assert_eq!(host(&discovery).unwrap(), None);
    }
    let mut discovery = site(None);
    let (_, said) = Machine::new(&[("LoaderDeviceURL", "https://u:p@a/netboot.efi\0")]).look(&mut discovery);
    let text = "the boot URL's metalstrap.repository holds a user name or password";
    assert_eq!(said, [format!("the EFI variable LoaderDeviceURL: {text}")]);
}
