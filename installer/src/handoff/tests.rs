//! Up to the system call; the jump itself is tested in a virtual machine.

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::sync::Arc;

use metalstrap_release::host::Existing;
use metalstrap_release::manifest::{Artifact, Payload, Salt};
use metalstrap_release::pcr;
use metalstrap_release::uki::Sections;
use metalstrap_release::verity::{self, BLOCK, MemoryStore};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use uuid::Uuid;

use super::*;
use crate::disk::{Disk as _, Memory};
use crate::failure::code_of;

pub(crate) const CMDLINE: &str = "console=ttyS0 roothash=00";
/// Sections of the handmade UKI start at multiples of it in the file.
const ALIGN: usize = 512;

/// A PE32+ file with these sections: (name, content, zeroes behind the content).
pub(crate) fn uki(sections: &[(&str, Vec<u8>, usize)]) -> Vec<u8> {
    let mut head = vec![0; 0x40];
    head[..2].copy_from_slice(b"MZ");
    head[0x3c..0x40].copy_from_slice(&0x40u32.to_le_bytes());
    head.extend(b"PE\0\0");
    head.extend(0x8664u16.to_le_bytes());
    head.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    head.extend([0; 12]);
    head.extend(112u16.to_le_bytes());
    head.extend([0; 2]);
    head.extend(0x20bu16.to_le_bytes());
    head.resize(head.len() + 110, 0);
    let mut body = Vec::new();
    let body_start = (head.len() + 40 * sections.len()).next_multiple_of(ALIGN);
    for (name, content, zeroes) in sections {
        let stored = content.len().next_multiple_of(ALIGN);
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        for (at, value) in [(8, content.len() + zeroes), (16, stored), (20, body_start + body.len())] {
            header[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        }
        head.extend(header);
        body.extend(content);
        // Padding is not content: it must not come out.
        body.resize(body.len().next_multiple_of(ALIGN), 0xee);
    }
    head.resize(body_start, 0);
    head.extend(body);
    head
}

/// Bytes without a pattern that repeats in a piece.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// A disk with the UKI in the middle, its tree, and the manifest's part about it.
pub(crate) fn on_disk(uki: &[u8]) -> (Region, Tree<MemoryStore>, Boot) {
    let size = uki.len() as u64;
    let blocks = size.div_ceil(BLOCK);
    let disk = Arc::new(Memory::new(64 << 20, 512));
    let mut padded = uki.to_vec();
    padded.resize(usize::try_from(blocks * BLOCK).unwrap(), 0);
    disk.write_at(1 << 20, &padded).unwrap();
    let region = Region { disk, start: 1 << 20, size: blocks * BLOCK };

    let mut hash_file = Cursor::new(Vec::new());
    let root_hash = verity::build(&mut padded.as_slice(), blocks, b"salt", Uuid::nil(), &mut hash_file).unwrap();
    let store = MemoryStore::new(hash_file.into_inner());
    let tree = Tree::open(store, root_hash, b"salt".to_vec(), blocks).unwrap();

    let none = Digest([0; 32]);
    let payload = Payload { sha256: none, size: 0, content_size: 0, seek_table_size: 0, seek_table_sha256: none };
    let salt = Salt(b"salt".to_vec());
    let artifact = Artifact {
        size,
        sha256: Digest::of(uki),
        root_hash,
        salt,
        data: payload.clone(),
        fine: None,
        hash_tree: payload,
    };
    let boot = Boot {
        uki: artifact.clone(),
        loader: artifact,
        cmdline: CMDLINE.to_owned(),
        cmdline_limit: 2047,
        pcr11: None,
        secure_boot: None,
        watchdog: None,
        unconfirmed: false,
    };
    (region, tree, boot)
}

/// Sections of an ordinary UKI: (name, content, zeroes behind the content).
pub(crate) fn ordinary() -> Vec<(&'static str, Vec<u8>, usize)> {
    vec![
        (".osrel", b"ID=test\n".to_vec(), 0),
        (".cmdline", format!("{CMDLINE}\n").into_bytes(), 0),
        (".linux", bytes(3_000_001, 1), 0),
        (".initrd", bytes(2_500_003, 2), 0),
    ]
}

/// What an ordinary UKI has, but behind its initrd nothing can be put.
pub(crate) fn without_room() -> Parts {
    let (region, tree, boot) = on_disk(&uki(&ordinary()));
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    // Opened to be read alone.
    Parts { initrd: File::open("/proc/self/exe").unwrap(), ..parts }
}

/// A memory file that the kernel does not let do this: with the error that a lack of memory would bring at the same place.
fn sealed(seal: SealFlag) -> io::Result<File> {
    let file: File = memfd_create("sealed", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?.into();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seal))?;
    Ok(file)
}

/// What is said where an ordinary UKI finds no memory: for its files, for their sizes, for their content.
pub(crate) fn without_memory() -> [LoadError; 3] {
    let (region, tree, boot) = on_disk(&uki(&ordinary()));
    let files: [fn(&str) -> io::Result<File>; 3] =
        [|_| Err(Errno::ENOMEM.into()), |_| sealed(SealFlag::F_SEAL_GROW), |_| sealed(SealFlag::F_SEAL_WRITE)];
    files.map(|memory| not_split(split::split_into(&region, &tree, &boot, &[], memory).unwrap_err()))
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_uki_is_split_into_kernel_and_initrd() {
    let image = uki(&ordinary());
    let (region, tree, boot) = on_disk(&image);
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    assert_eq!(Digest::of(&content(&parts.kernel)), Digest::of(&bytes(3_000_001, 1)));
    assert_eq!(Digest::of(&content(&parts.initrd)), Digest::of(&bytes(2_500_003, 2)));
    assert_eq!(parts.sha256, Digest::of(&image));
}

#[test]
fn a_lack_of_memory_is_no_fault_of_the_disk() {
    let texts = without_memory().map(|error| {
        assert!(matches!(error, LoadError::Memory(_)), "{error:?}");
        format!("{:#}", anyhow::Error::from(error))
    });
    let expected = [
        "making a memory file kernel: Cannot allocate memory (os error 12)",
        "reserving memory for the UKI's section .linux: Operation not permitted (os error 1)",
        "copying the UKI's section .linux to memory: Operation not permitted (os error 1)",
    ];
    assert_eq!(texts, expected.map(|text| format!("holding the installed UKI in memory: {text}")));
}

#[test]
fn microcode_comes_first_and_missing_bytes_are_zeroes() {
    let mut sections = ordinary();
    sections.push((".ucode", bytes(ALIGN, 3), 2));
    let (region, tree, boot) = on_disk(&uki(&sections));
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    let initrd = content(&parts.initrd);
    assert_eq!(initrd[..ALIGN], bytes(ALIGN, 3));
    // Two bytes that are not in the file, and two to the multiple of four.
    assert_eq!(initrd[ALIGN..ALIGN + 4], [0; 4]);
    assert_eq!(Digest::of(&initrd[ALIGN + 4..]), Digest::of(&bytes(2_500_003, 2)));
}

#[test]
fn credentials_come_behind_the_initrd_where_the_kernel_looks_for_them() {
    let (region, tree, boot) = on_disk(&uki(&ordinary()));
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    parts.append(b"070701archive").unwrap();
    parts.append(b"").unwrap();
    let initrd = content(&parts.initrd);
    assert_eq!(Digest::of(&initrd[..2_500_003]), Digest::of(&bytes(2_500_003, 2)));
    assert_eq!(&initrd[2_500_003..], b"\x00070701archive");
}

#[test]
fn of_several_profiles_the_first_one_is_started() {
    let mut sections = ordinary();
    let other = ("console=ttyS9", bytes(4096, 9));
    let line = sections.remove(1);
    let first = [(".profile", b"ID=main\n".to_vec(), 0), line];
    let second = [(".profile", b"ID=other\n".to_vec(), 0), (".cmdline", other.0.as_bytes().to_vec(), 0)];
    sections.extend(first.into_iter().chain(second));
    sections.push((".initrd", other.1, 0));
    let (region, tree, boot) = on_disk(&uki(&sections));
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    assert_eq!(Digest::of(&content(&parts.kernel)), Digest::of(&bytes(3_000_001, 1)));
    assert_eq!(Digest::of(&content(&parts.initrd)), Digest::of(&bytes(2_500_003, 2)));
}

#[test]
fn a_kernel_that_only_efi_unpacks_is_no_reason_to_fail() {
    let mut sections = ordinary();
    sections[2].1 = [b"MZ\0\0zimg".as_slice(), &bytes(4000, 4)].concat();
    let (region, tree, boot) = on_disk(&uki(&sections));
    let parts = read(&region, &tree, &boot, &[]).unwrap();
    let error = load(&parts, &CommandLine::new(CMDLINE, "").unwrap()).unwrap_err();
    assert!(matches!(error, LoadError::Kernel(_)), "{error:?}");
    assert_eq!(
        format!("{:#}", anyhow::Error::from(error)),
        "loading the installed kernel: the UKI's kernel is compressed for EFI (zboot), so kexec cannot start it"
    );
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let image = uki(&ordinary());
    let (region, tree, boot) = on_disk(&image);
    for at in [0, 5000, image.len() as u64 - 1] {
        let block = at / BLOCK;
        let mut bytes = vec![0; 4096];
        region.read_at(block * BLOCK, &mut bytes).unwrap();
        bytes[usize::try_from(at % BLOCK).unwrap()] ^= 1;
        region.write_at(block * BLOCK, &bytes).unwrap();

        let error = read(&region, &tree, &boot, &[]).unwrap_err();

        assert_eq!(error.to_string(), "reading the UKI back from the disk");
        let LoadError::Uki(cause) = error else { panic!("{error}") };
        assert!(format!("{cause:#}").contains(&format!("block {block} has digest ")), "{cause:#}");
        bytes[usize::try_from(at % BLOCK).unwrap()] ^= 1;
        region.write_at(block * BLOCK, &bytes).unwrap();
    }
}

#[test]
fn what_contradicts_the_manifest_is_refused() {
    let refused = |sections: &[(&str, Vec<u8>, usize)], change: fn(&mut Boot)| {
        let (region, tree, mut boot) = on_disk(&uki(sections));
        change(&mut boot);
        format!("{:#}", split::split(&region, &tree, &boot, &[]).unwrap_err())
    };
    assert_eq!(
        refused(&ordinary(), |boot| boot.cmdline = "quiet".to_owned()),
        "the UKI's command line is \"console=ttyS0 roothash=00\", but the manifest says \"quiet\""
    );
    let image = Digest::of(&uki(&ordinary()));
    assert_eq!(
        refused(&ordinary(), |boot| boot.uki.sha256 = Digest([1; 32])),
        format!("the UKI has SHA-256 {image}, but the manifest says {}", "01".repeat(32))
    );
    let mut cut = ordinary();
    cut[1].2 = 1 << 20;
    assert_eq!(refused(&cut, |_| ()), "the UKI's section .cmdline has 1048602 bytes, more than 65536");
    assert_eq!(
        refused(&ordinary(), |boot| boot.uki.size -= 4096),
        "the UKI has a section .initrd that reaches behind the end of the file"
    );
}

#[test]
fn blanks_at_the_end_of_a_command_line_do_not_count() {
    let mut sections = ordinary();
    sections[1].1 = format!("{CMDLINE} \n").into_bytes();
    let (region, tree, boot) = on_disk(&uki(&sections));
    split::split(&region, &tree, &boot, &[]).unwrap();
}

/// As behind systemd-stub: the kernel may have one built in.
#[test]
fn without_an_initrd_what_is_added_is_all_of_it() {
    let (region, tree, boot) = on_disk(&uki(&ordinary()[..3]));
    let parts = read(&region, &tree, &boot, &Bank::ALL).unwrap();
    assert_eq!(content(&parts.initrd), b"");
    let measured: Vec<_> = parts.extensions().unwrap().iter().step_by(2).map(|extension| extension.section).collect();
    assert_eq!(measured, [".linux", ".osrel", ".cmdline"]);
    let error = load(&parts, &CommandLine::new(CMDLINE, "").unwrap()).unwrap_err();
    assert!(matches!(error, LoadError::Refused { .. }), "the kernel is none: {error:?}");
    parts.append(b"070701archive").unwrap();
    assert_eq!(content(&parts.initrd), b"070701archive");
}

#[test]
fn the_command_line_is_the_ukis_and_the_hosts() {
    let line = |uki, extra| CommandLine::new(uki, extra).unwrap().as_str().to_owned();
    assert_eq!(line("a b", "c=d e"), "a b c=d e");
    assert_eq!(line("a ", ""), "a");
    assert_eq!(line("", " x "), "x");
    let error = CommandLine::new("a", "b\nc").unwrap_err();
    assert_eq!(error.to_string(), "cmdline_extra of the host config holds a NUL or a line break");
    assert_eq!(code_of(&error), Code::CommandLine);
    assert_eq!(
        CommandLine::new("a\0", "b").unwrap_err().to_string(),
        "the UKI's command line holds a NUL or a line break"
    );
}

#[test]
fn a_watchdog_that_stays_armed_is_told_to_the_os_and_counts_for_the_length() {
    let (mut manifest, host) = (crate::plan::tests::manifest(), crate::plan::tests::host(Existing::Refuse));
    let plain = CommandLine::for_handoff(&manifest, &host, false).unwrap();
    manifest.boot.watchdog = Some(60);
    let line = CommandLine::for_handoff(&manifest, &host, false).unwrap();
    assert_eq!(line.as_str(), format!("{} systemd.watchdog_sec=60", plain.as_str()));
    let limit = u32::try_from(plain.as_str().len()).unwrap() + 31;
    assert_eq!(plain.excess(limit), None);
    assert!(line.excess(limit).is_some());
}

#[test]
fn an_os_behind_an_installer_that_measures_is_told_to_go_on() {
    let (manifest, host) = (crate::plan::tests::manifest(), crate::plan::tests::host(Existing::Refuse));
    let plain = CommandLine::for_handoff(&manifest, &host, false).unwrap();
    let line = CommandLine::for_handoff(&manifest, &host, true).unwrap();
    let words = "SYSTEMD_FORCE_MEASURE=1 systemd.setenv=SYSTEMD_FORCE_MEASURE=1 systemd.tpm2_measured_os=1";
    assert_eq!(line.as_str(), format!("{} {words}", plain.as_str()));
    assert_eq!(CommandLine::new("aä", "").unwrap().to_load_options(), b"a\0\xe4\0\0\0");
}

/// The same pass that splits says what systemd-stub measures.
#[test]
fn what_is_measured_is_what_is_predicted_of_the_file() {
    let mut sections = ordinary();
    sections.push((".ucode", bytes(ALIGN, 3), 2));
    sections.push((".pcrsig", b"{}".to_vec(), 0));
    sections.push((".pcrpkey", b"key".to_vec(), 0));
    let image = uki(&sections);
    let (region, tree, boot) = on_disk(&image);
    let parts = split::split(&region, &tree, &boot, &Bank::ALL).unwrap();
    let expected = pcr::extensions(&mut Cursor::new(&image), &Sections::parse(&image).unwrap(), &Bank::ALL).unwrap();
    assert_eq!(parts.extensions().unwrap(), expected);
    let order: Vec<_> = expected.iter().step_by(2).map(|extension| extension.section).collect();
    assert_eq!(order, [".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".pcrpkey"]);
    // Of no bank nothing is hashed, and nothing else changes.
    let parts = split::split(&region, &tree, &boot, &[]).unwrap();
    assert!(parts.extensions().unwrap().iter().all(|extension| extension.digests.is_empty()));
}

#[test]
fn what_the_machine_decides_about_is_said_not_to_be_known() {
    let mut sections = ordinary();
    sections.push((".dtbauto", b"tree".to_vec(), 0));
    let (region, tree, boot) = on_disk(&uki(&sections));
    let parts = split::split(&region, &tree, &boot, &Bank::ALL).unwrap();
    assert_eq!(
        parts.extensions().unwrap_err().to_string(),
        "the UKI has a section .dtbauto, and whether systemd-stub measures it depends on the machine's hardware"
    );
}

#[test]
fn a_command_line_that_does_not_fit_is_refused_with_both_numbers() {
    let long = |length: usize| CommandLine::new(&"x".repeat(length), "").unwrap();
    long(2016).check_fits(2047).unwrap();
    let error = long(2017).check_fits(2047).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel command line has 2017 bytes, but the installed kernel takes at most 2016 by kexec: shorten \
         cmdline_extra of the host config"
    );
    assert_eq!(code_of(&error), Code::CommandLine);
    long(1).check_fits(31).unwrap_err();
    let text = "the kernel command line has 2017 bytes, but the installed kernel takes at most 2016 by kexec";
    assert_eq!((long(2016).excess(2047), long(2017).excess(2047).as_deref()), (None, Some(text)));
}

#[test]
fn a_refusal_says_what_it_means() {
    let text = |errno| LoadError::Refused { errno }.to_string();
    assert_eq!(
        text(Errno::EPERM),
        "loading the installed kernel: kexec is not permitted here (kernel lockdown, kexec_load_disabled, or no \
         CAP_SYS_BOOT)"
    );
    assert_eq!(
        text(Errno::EADDRNOTAVAIL),
        "loading the installed kernel: there is no free range of memory that is large enough"
    );
    assert_eq!(text(Errno::ENOSYS), "loading the installed kernel: the installer's kernel has no kexec_file_load");
}

#[test]
fn a_link_that_cannot_be_is_an_error() {
    let error = sys::set_link("no-such-link", false).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
    for name in ["", "sixteen-letters!", "a\0b"] {
        assert_eq!(sys::set_link(name, false).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn every_link_but_the_loopback_is_taken_down() {
    let sysfs = tempfile::tempdir().unwrap();
    let absent = take_down(sysfs.path(), |name| panic!("{name} is no link"));
    assert_eq!(absent, ["listing the network links: No such file or directory (os error 2)"]);
    for name in ["lo", "eth0", "enp1s0", "ib0"] {
        std::fs::create_dir_all(sysfs.path().join("class/net").join(name)).unwrap();
    }
    let asked = std::cell::RefCell::new(Vec::new());
    let warnings = take_down(sysfs.path(), |name| {
        asked.borrow_mut().push(name.to_owned());
        if name == "eth0" { Err(Errno::EPERM.into()) } else { Ok(()) }
    });
    // One that stays up keeps no other from it.
    assert_eq!(warnings, ["taking eth0 down: Operation not permitted (os error 1)"]);
    let mut asked = asked.into_inner();
    asked.sort_unstable();
    assert_eq!(asked, ["enp1s0", "eth0", "ib0"]);
}
