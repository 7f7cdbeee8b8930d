//! The initrd with credentials, byte for byte as systemd-stub packs it (`pack_cpio` in systemd's src/boot/cpio.c; the kernel's
//! format is "newc", Documentation/driver-api/early-userspace/buffer-format.rst).

use super::Sealed;

/// Where PID 1 looks for what the whole ESP has for all its UKIs, with the directories above it and their modes.
const DIRECTORIES: [(&str, u32); 2] = [(".extra", 0o040_555), (".extra/global_credentials", 0o040_500)];
const FILE: u32 = 0o100_400;
/// The end, in capitals where all else is in small letters.
const TRAILER: &str = concat!(
    "070701000000000000000000000000000000000000000100000000000000000000000000000000",
    "00000000000000000000000B00000000TRAILER!!!\0"
);

/// The archive; empty where there are none.
#[must_use]
pub fn archive(credentials: &[Sealed]) -> Vec<u8> {
    if credentials.is_empty() {
        return Vec::new();
    }
    let [_, (directory, _)] = DIRECTORIES;
    let paths: Vec<_> = credentials.iter().map(|one| format!("{directory}/{}", one.file())).collect();
    let files = paths.iter().zip(credentials).map(|(path, one)| (path.as_str(), FILE, one.bytes.as_slice()));
    pack(&DIRECTORIES, &files.collect::<Vec<_>>())
}

/// An archive of these directories, and then of these files with their content; each has a path and a mode.
#[must_use]
pub fn pack(directories: &[(&str, u32)], files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let directories = directories.iter().map(|(path, mode)| (*path, *mode, [].as_slice()));
    for (inode, (path, mode, content)) in (1_u32..).zip(directories.chain(files.iter().copied())) {
        put(&mut out, inode, mode, path, content);
    }
    out.extend_from_slice(TRAILER.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Appends header, name and content, the last two each filled up to a multiple of 4. Owner, times and devices are zero.
fn put(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, content: &[u8]) {
    // Both are bounded far below 4 GiB: by what a host config, a UKI's small sections and a log may hold.
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let (size, name_size) = (length(content.len()), length(path.len().saturating_add(1)));
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}
