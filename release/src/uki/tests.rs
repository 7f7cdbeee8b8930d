//! UKIs made by hand, read back and compared with what `objdump` says, and headers that lie.

use std::io::Cursor;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// Where the PE header starts, as Debian's systemd-stub has it.
const PE: usize = 0x80;
/// Where the section table starts: behind signature, COFF header and an optional header of 112 bytes.
const TABLE: usize = PE + 4 + 20 + 112;

/// A PE32+ file with these sections: name, content, virtual size. Contents lie one behind the other, padded to 512.
pub(crate) fn pe(sections: &[(&[u8], &[u8], u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &u32::try_from(PE).unwrap().to_le_bytes());
    put(PE, b"PE\0\0");
    put(PE + 4, &0x8664_u16.to_le_bytes());
    put(PE + 6, &u16::try_from(sections.len()).unwrap().to_le_bytes());
    put(PE + 20, &112_u16.to_le_bytes());
    // Executable, with a large address space.
    put(PE + 22, &0x22_u16.to_le_bytes());
    put(PE + 24, &0x20b_u16.to_le_bytes());
    // Section and file alignment, sizes of image and headers.
    put(PE + 24 + 32, &4096_u32.to_le_bytes());
    put(PE + 24 + 36, &512_u32.to_le_bytes());
    put(PE + 24 + 56, &0x10_0000_u32.to_le_bytes());
    put(PE + 24 + 60, &0x400_u32.to_le_bytes());
    let mut address = 0x1000;
    for (index, (name, content, virtual_size)) in sections.iter().enumerate() {
        let header = TABLE + index * SECTION_HEADER;
        let start = u32::try_from(bytes.len()).unwrap();
        let raw = content.len().next_multiple_of(512);
        let mut put = |offset: usize, field: &[u8]| {
            bytes[header + offset..header + offset + field.len()].copy_from_slice(field);
        };
        put(0, name);
        put(8, &virtual_size.to_le_bytes());
        put(12, &u32::to_le_bytes(address));
        put(16, &u32::try_from(raw).unwrap().to_le_bytes());
        put(20, &start.to_le_bytes());
        // Initialised data, readable.
        put(36, &0x4000_0040_u32.to_le_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(usize::try_from(start).unwrap() + raw, 0xee);
        address += (*virtual_size).max(1).next_multiple_of(0x1000);
    }
    bytes
}

fn uki() -> Vec<u8> {
    pe(&[(b".osrel", b"ID=test\n", 8), (b".cmdline", b"quiet", 5), (b".linux", &[7; 700], 700), (b".bss", b"", 64)])
}

fn refusal(head: &[u8]) -> String {
    Sections::parse(head).unwrap_err().to_string()
}

#[test]
fn sections_are_read_with_their_virtual_size() {
    let bytes = uki();
    let sections = Sections::parse(&bytes).unwrap();
    let found: Vec<_> = sections.iter().map(|s| (s.name.as_str(), s.file_offset, s.raw_size, s.virtual_size)).collect();
    assert_eq!(
        found,
        [(".osrel", 0x400, 512, 8), (".cmdline", 0x600, 512, 5), (".linux", 0x800, 1024, 700), (".bss", 0xc00, 0, 64)]
    );
    let read = |name, limit| read_section(&mut Cursor::new(&bytes), sections.required(name).unwrap(), limit);
    assert_eq!(read(".osrel", 8).unwrap(), b"ID=test\n");
    assert_eq!(read(".linux", 1 << 20).unwrap(), [7; 700]);
    assert_eq!(read(".bss", 64).unwrap(), [0; 64], "what the file does not hold is zero");
    assert_eq!(read(".osrel", 7).unwrap_err().to_string(), "the UKI's section .osrel has 8 bytes, more than 7");
    assert_eq!(sections.get(".initrd"), None);
    assert_eq!(sections.required(".initrd").unwrap_err().to_string(), "the UKI has no section .initrd");
    let short = &bytes[..bytes.len() - 1024];
    let error = read_section(&mut Cursor::new(short), sections.required(".linux").unwrap(), 1 << 20).unwrap_err();
    assert_eq!(error.to_string(), "reading the UKI's section .linux");
}

#[test]
fn objdump_reads_the_same_sections() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), uki()).unwrap();
    let output = Command::new("objdump")
        .args(["--target=pei-x86-64", "--section-headers", "--wide"])
        .arg(file.path())
        .output()
        .expect("objdump, of Debian's package binutils");
    let text = String::from_utf8(output.stdout).unwrap();
    for section in &Sections::parse(&uki()).unwrap() {
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(&section.name));
        let fields: Vec<_> = line.expect(&text).split_whitespace().collect();
        // objdump shows the stored size of a section, cut to the virtual one.
        if section.raw_size > 0 {
            assert_eq!(u64::from_str_radix(fields[2], 16), Ok(section.stored_size()), "{text}");
            assert_eq!(u64::from_str_radix(fields[5], 16), Ok(section.file_offset), "{text}");
        }
    }
}

#[test]
fn files_of_another_kind_are_refused() {
    assert_eq!(refusal(b""), "the UKI ends before its header does, at byte 0");
    assert_eq!(refusal(b"\x7fELF"), "the UKI is no PE file: it does not start with MZ");
    let with = |offset: usize, field: &[u8]| {
        let mut bytes = uki();
        bytes[offset..offset + field.len()].copy_from_slice(field);
        refusal(&bytes)
    };
    assert_eq!(with(0x3c, &[0xff; 4]), "the UKI has its PE header at byte 4294967295, too far behind");
    assert_eq!(with(PE, b"NE"), "the UKI is no PE file: the PE signature is missing");
    assert_eq!(with(PE + 4, &0xaa64_u16.to_le_bytes()), "the UKI is for machine 0xaa64, not x86-64");
    assert_eq!(with(PE + 24, &0x10b_u16.to_le_bytes()), "the UKI is no PE32+ file");
    assert_eq!(with(PE + 6, &97_u16.to_le_bytes()), "the UKI has 97 sections, more than 96");
    let within = "the UKI has its section table within its optional header";
    assert_eq!(with(PE + 20, &111_u16.to_le_bytes()), within);
    assert_eq!(with(PE + 20, &[0; 2]), within);
    assert_eq!(with(TABLE, b".os\xff"), format!("the UKI has a section name that is not ASCII, at byte {TABLE}"));
    assert_eq!(refusal(&uki()[..TABLE + 20]), format!("the UKI ends before its header does, at byte {}", TABLE + 20));
}

/// The handmade UKI with other bytes at an offset.
fn changed(offset: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = uki();
    bytes[offset..offset + field.len()].copy_from_slice(field);
    bytes
}

#[test]
fn sections_that_share_bytes_are_refused() {
    let with = |offset: usize, number: u32| Sections::parse(&changed(offset, &number.to_le_bytes()));
    let refusal = |offset, number| with(offset, number).unwrap_err().to_string();
    let (cmdline, linux, bss) = (TABLE + SECTION_HEADER, TABLE + 2 * SECTION_HEADER, TABLE + 3 * SECTION_HEADER);
    let in_file = "the UKI has sections that overlap in the file: .osrel and .cmdline";
    assert_eq!(refusal(cmdline + 20, 0x5ff), in_file);
    assert_eq!(refusal(cmdline + 20, 0x400), in_file);
    assert_eq!(refusal(TABLE + 16, 513), in_file);
    assert_eq!(refusal(linux + 20, 0x3ff), "the UKI has sections that overlap in the file: .osrel and .linux");
    assert_eq!(with(bss + 20, 0x400).unwrap().iter().count(), 4, "one without bytes in the file");
    let in_memory = "the UKI has sections that overlap in memory: .osrel and .cmdline";
    assert_eq!(refusal(cmdline + 12, 0x1007), in_memory);
    assert_eq!(with(cmdline + 12, 0x1008).unwrap().iter().count(), 4, "one right behind the other");
    assert_eq!(refusal(TABLE + 8, 0x1001), in_memory);
    assert_eq!(refusal(bss + 12, 0x3000), "the UKI has sections that overlap in memory: .linux and .bss");
    let profiles = pe(&[(b".linux", b"a", 1), (b".profile", b"b", 1), (b".cmdline", b"c", 1)]);
    assert!(Sections::parse(&profiles).is_ok());
    let mut shared = profiles;
    shared[linux + 20..linux + 24].copy_from_slice(&0x400_u32.to_le_bytes());
    let error = Sections::parse(&shared).unwrap_err();
    assert_eq!(error.to_string(), "the UKI has sections that overlap in the file: .linux and .cmdline");
}

#[test]
fn sections_over_the_headers_are_refused() {
    let end = u32::try_from(TABLE + 4 * SECTION_HEADER).unwrap();
    let with = |offset: usize, number: u32| Sections::parse(&changed(offset, &number.to_le_bytes()));
    let refusal = |offset, number| with(offset, number).unwrap_err().to_string();
    let (linux, bss) = (TABLE + 2 * SECTION_HEADER, TABLE + 3 * SECTION_HEADER);
    let in_file = "the UKI has a section .osrel that overlaps its headers in the file";
    assert_eq!(refusal(TABLE + 20, 0), in_file);
    assert_eq!(refusal(TABLE + 20, end - 1), in_file);
    assert_eq!(refusal(linux + 20, 0), "the UKI has a section .linux that overlaps its headers in the file");
    assert_eq!(with(TABLE + 20, end).unwrap().iter().count(), 4, "right behind them");
    assert_eq!(with(bss + 20, 0).unwrap().iter().count(), 4, "one without bytes in the file");
    let in_memory = "the UKI has a section .osrel that overlaps its headers in memory";
    assert_eq!(refusal(TABLE + 12, 1), in_memory);
    assert_eq!(refusal(TABLE + 12, end - 1), in_memory);
    assert_eq!(with(TABLE + 12, end).unwrap().iter().count(), 4, "right behind them");
    assert_eq!(with(TABLE + 12, 0).unwrap().iter().count(), 4, "one that has not been placed");
}

#[test]
fn huge_and_missing_sections_are_refused() {
    // Far away in memory, so that it overlaps none.
    let mut huge = changed(TABLE + 8, &[0xff; 4]);
    huge[TABLE + 12..TABLE + 16].copy_from_slice(&0xffff_0000_u32.to_le_bytes());
    assert_eq!(refusal(&huge), "the UKI has a section .osrel of 4294967295 bytes, too large");
    let far = changed(TABLE + 2 * SECTION_HEADER + 16, &[0xff; 4]);
    // The last bytes of the file, and .bss has none.
    let sections = Sections::parse(&far).unwrap();
    let linux = sections.required(".linux").unwrap();
    assert_eq!((linux.raw_size, linux.stored_size()), (u64::from(u32::MAX), 700), "only what is its content is read");
    let behind = changed(TABLE + 2 * SECTION_HEADER + 20, &[0xff; 4]);
    let sections = Sections::parse(&behind).unwrap();
    let error = read_section(&mut Cursor::new(&behind), sections.required(".linux").unwrap(), 1 << 20).unwrap_err();
    assert_eq!(error.to_string(), "reading the UKI's section .linux");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "unexpected end of file");
    let none = changed(TABLE + 2 * SECTION_HEADER, b".text\0");
    let error = Sections::parse(&none).unwrap().required(".linux").unwrap_err().to_string();
    assert_eq!(error, "the UKI has no section .linux");
}

#[test]
fn ambiguous_sections_are_refused() {
    assert_eq!(refusal(&pe(&[(b".linux", b"a", 1), (b".linux", b"b", 1)])), "the UKI has two sections .linux");
    let profile: (&[u8], &[u8], u32) = (b".profile", b"ID=x", 4);
    let twice =
        pe(&[(b".linux", b"a", 1), profile, (b".initrd", b"b", 1), profile, (b".dtb", b"c", 1), (b".dtb", b"d", 1)]);
    assert_eq!(refusal(&twice), "the UKI has two sections .dtb", "in a profile that is not the one asked for");
    let repeated = pe(&[(b".hwids", b"a", 1), (b".dtbauto", b"b", 1), (b".dtbauto", b"c", 1)]);
    assert_eq!(Sections::parse(&repeated).unwrap().iter().count(), 3);
}

#[test]
fn a_profile_replaces_what_all_have() {
    let bytes = pe(&[
        (b".linux", b"kernel", 6),
        (b".cmdline", b"all", 3),
        (b".profile", b"ID=one", 6),
        (b".pcrsig", b"one", 3),
        (b".profile", b"ID=two", 6),
        (b".cmdline", b"two", 3),
        (b".dtb", b"tree", 4),
    ]);
    let profile = |number: usize| {
        let sections = Sections::parse_profile(&bytes, number).unwrap();
        let read = |section| String::from_utf8(read_section(&mut Cursor::new(&bytes), section, 16).unwrap()).unwrap();
        sections.iter().map(|section| (section.name.clone(), read(section))).collect::<Vec<_>>()
    };
    let expected = |sections: &[(&str, &str)]| {
        sections.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        profile(0),
        expected(&[(".linux", "kernel"), (".cmdline", "all"), (".profile", "ID=one"), (".pcrsig", "one")])
    );
    assert_eq!(
        profile(1),
        expected(&[(".linux", "kernel"), (".profile", "ID=two"), (".cmdline", "two"), (".dtb", "tree")])
    );
    assert_eq!(Sections::parse(&bytes).unwrap(), Sections::parse_profile(&bytes, 0).unwrap());
    let refusal = Sections::parse_profile(&bytes, 2).unwrap_err();
    assert_eq!(refusal.to_string(), "the UKI has no profile 2");
    let without = uki();
    assert_eq!(Sections::parse_profile(&without, 0).unwrap(), Sections::parse(&without).unwrap());
    assert_eq!(Sections::parse_profile(&without, 1).unwrap_err().to_string(), "the UKI has no profile 1");
    let only = pe(&[(b".profile", b"ID=x", 4), (b".linux", b"a", 1)]);
    assert_eq!(Sections::parse(&only).unwrap().iter().count(), 2);
}

/// The first KiB of a bzImage with this protocol and limit.
fn kernel(version: u16, limit: u32) -> Vec<u8> {
    let mut head = vec![0; 1024];
    head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    head[0x202..0x206].copy_from_slice(b"HdrS");
    head[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    head[0x238..0x23c].copy_from_slice(&limit.to_le_bytes());
    head
}

#[test]
fn the_command_line_limit_is_in_the_boot_header() {
    assert_eq!(cmdline_limit(&kernel(0x20f, 2047)).unwrap(), 2047);
    let refusal = |head: &[u8]| cmdline_limit(head).unwrap_err().to_string();
    assert_eq!(refusal(&kernel(0x205, 255)), "the UKI's kernel has boot protocol 0x0205, older than 0x0206");
    assert_eq!(refusal(&[0; 1024]), "the UKI's kernel has no boot header");
    let zboot = [b"MZ\0\0zimg".as_slice(), &[0; 1016]].concat();
    assert_eq!(refusal(&zboot), "the UKI's kernel is compressed for EFI (zboot), so kexec cannot start it");
    assert_eq!(refusal(&kernel(0x20f, 2047)[..0x23b]), "the UKI's kernel ends before its boot header does");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        let _: Result<Sections, UkiError> = Sections::parse(&bytes);
        let _: Result<u32, UkiError> = cmdline_limit(&bytes);
    }

    #[test]
    fn any_damaged_header_never_panics(damage in prop::collection::vec((0_usize..0x400, any::<u8>()), 1..8), length in 0_usize..0x1000) {
        let mut bytes = uki();
        damage.iter().for_each(|(offset, byte)| bytes[*offset] = *byte);
        bytes.truncate(length);
        for section in Sections::parse(&bytes).iter().flatten() {
            if let Ok(content) = read_section(&mut Cursor::new(&bytes), section, 1 << 16) {
                prop_assert_eq!(content.len() as u64, section.virtual_size);
            }
        }
    }
}

#[test]
fn a_command_line_names_one_root() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(root_hash(&format!("quiet roothash={hash} gpt\n\0")).unwrap().to_string(), hash);
    let refusal = |cmdline: &str| {
        let error = root_hash(cmdline).unwrap_err();
        std::error::Error::source(&error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    };
    assert_eq!(
        refusal("quiet usrhash=00"),
        "its command line has no roothash=, so it would not start from a verified root"
    );
    assert_eq!(refusal(&format!("roothash={hash} roothash={hash}")), "its command line has several roothash=");
    assert_eq!(
        refusal("roothash=00"),
        "its command line's roothash=: not a SHA-256 digest (64 lower-case hexadecimal characters): \"00\""
    );
}
