//! UKIs that the installer could not split: nothing of them is published.

use std::fs;

use super::Publish as _;
use super::support::{Inputs, files, kernel, pe};

/// Where the handmade UKI has its machine type, the size of its optional header, and the header of a section.
const MACHINE: usize = 0x84;
const OPTIONAL_SIZE: usize = 0x94;
const fn header(index: usize) -> usize {
    0x108 + 40 * index
}

const MIB: usize = 1 << 20;

type Parts = Vec<(&'static str, Vec<u8>)>;

/// The sections of a UKI that is taken.
fn parts(inputs: &Inputs) -> Parts {
    let cmdline = format!("quiet gpt roothash={}", inputs.root_hash).into_bytes();
    vec![(".osrel", b"NAME=Test\n".to_vec()), (".cmdline", cmdline), (".linux", kernel()), (".initrd", vec![3; 700])]
}

/// What publishing this UKI says.
fn refusal(inputs: &Inputs, uki: &[u8]) -> String {
    fs::write(inputs.path("uki"), uki).unwrap();
    let text = inputs.refusal(&[]);
    assert!(!inputs.path("repository").exists(), "{text}");
    text.strip_prefix("metalstrap: reading the UKI D/uki: ").expect(&text).to_owned()
}

/// What it says of the UKI with other numbers in its headers, each with its place.
fn changed(inputs: &Inputs, fields: &[(usize, u32)]) -> String {
    let mut uki = pe(&parts(inputs));
    for (at, number) in fields {
        uki[*at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    refusal(inputs, &uki)
}

#[test]
fn sections_that_overlap_are_refused() {
    let inputs = Inputs::new();
    let (osrel, cmdline, linux) = (header(0), header(1), header(2));
    assert_eq!(
        changed(&inputs, &[(cmdline + 20, 0x400)]),
        "the UKI has sections that overlap in the file: .osrel and .cmdline"
    );
    assert_eq!(
        changed(&inputs, &[(osrel + 12, 0x1000), (cmdline + 12, 0x1009)]),
        "the UKI has sections that overlap in memory: .osrel and .cmdline"
    );
    let in_file = "the UKI has a section .linux that overlaps its headers in the file";
    assert_eq!(changed(&inputs, &[(linux + 20, 0)]), in_file);
    assert_eq!(changed(&inputs, &[(linux + 20, u32::try_from(header(4)).unwrap() - 1)]), in_file);
    assert_eq!(
        changed(&inputs, &[(linux + 12, 0x100)]),
        "the UKI has a section .linux that overlaps its headers in memory"
    );
}

#[test]
fn headers_of_another_kind_are_refused() {
    let inputs = Inputs::new();
    // Behind the machine type comes the number of sections.
    assert_eq!(changed(&inputs, &[(MACHINE, 0x0004_aa64)]), "the UKI is for machine 0xaa64, not x86-64");
    assert_eq!(changed(&inputs, &[(OPTIONAL_SIZE, 0)]), "the UKI has its section table within its optional header");
    assert_eq!(changed(&inputs, &[(MACHINE, 0x0061_8664)]), "the UKI has 97 sections, more than 96");
}

#[test]
fn huge_sections_are_refused() {
    let inputs = Inputs::new();
    assert_eq!(
        changed(&inputs, &[(header(2) + 8, (1 << 30) + 1)]),
        "the UKI has a section .linux of 1073741825 bytes, too large"
    );
    let refused = |parts: &Parts| refusal(&inputs, &pe(parts));
    for (name, limit) in
        [(".cmdline", 64 << 10), (".pcrsig", MIB), (".pcrpkey", MIB), (".osrel", MIB), (".profile", MIB)]
    {
        let mut parts = parts(&inputs);
        parts.retain(|(other, _)| *other != name);
        parts.push((name, vec![b'x'; limit + 1]));
        let expected = format!("the UKI's section {name} has {} bytes, more than {limit}", limit + 1);
        assert_eq!(refused(&parts), expected);
    }
    let mut parts = parts(&inputs);
    parts[0].1 = vec![b'x'; (64 << 10) + 1];
    assert_eq!(refused(&parts), "the UKI's section .osrel has 65537 bytes, more than 65536");
}

#[test]
fn sections_that_are_not_there_are_refused() {
    let inputs = Inputs::new();
    for name in [".linux", ".cmdline", ".osrel"] {
        let mut parts = parts(&inputs);
        parts.retain(|(other, _)| *other != name);
        assert_eq!(refusal(&inputs, &pe(&parts)), format!("the UKI has no section {name}"));
    }
    for name in [".pcrsig", ".splash"] {
        let mut parts = parts(&inputs);
        parts.push((name, vec![b'x'; 100]));
        let uki = pe(&parts);
        let expected = format!("the UKI has a section {name} that reaches behind the end of the file");
        assert_eq!(refusal(&inputs, &uki[..uki.len() - 1]), expected);
    }
}

#[test]
fn a_uki_without_initrd_is_published() {
    let inputs = Inputs::new();
    let mut parts = parts(&inputs);
    parts.retain(|(name, _)| *name != ".initrd");
    fs::write(inputs.path("uki"), pe(&parts)).unwrap();
    let output = inputs.publish(&[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(&inputs.path("repository/targets")).len(), 1);
}
