//! Images of media: FAT as the tools of others make it, ISO 9660 by hand.

use std::fs;
use std::process::Command;

/// What a program prints.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A FAT file system of so many KiB, of the kind with so many bits, with these files in its root directory, as the tools of
/// others make it.
pub(crate) fn stick(label: &str, kib: u32, bits: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("image");
    let image = image.to_str().unwrap();
    run("mkfs.vfat", &["-C", "-F", bits, "-n", label, image, &kib.to_string()]);
    for (name, content) in files {
        let file = place.path().join("file");
        fs::write(&file, content).unwrap();
        run("mcopy", &["-i", image, file.to_str().unwrap(), &format!("::{name}")]);
    }
    fs::read(image).unwrap()
}

/// An ISO 9660 image with these files, in single extents, in its root directory. Path tables, which nobody needs who reads from
/// the root on, are left out.
pub(crate) fn disc(label: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let mut directory = [record(b"\0", 18, 2048, 2), record(b"\x01", 18, 2048, 2)].concat();
    let mut data = Vec::new();
    for (name, content) in files {
        let first = 19 + size(&data) / 2048;
        directory.extend(record(name.as_bytes(), first, size(content), 0));
        data.extend_from_slice(content);
        data.resize(data.len().next_multiple_of(2048), 0);
    }
    let mut primary = [b"\x01CD001\x01\0".as_slice(), &[b' '; 32], label.as_bytes()].concat();
    primary.resize(72, b' ');
    primary.resize(80, 0);
    primary.extend(both_32(19 + size(&data) / 2048));
    primary.resize(120, 0);
    [1, 1, 2048].iter().for_each(|number| primary.extend(both_16(*number)));
    primary.resize(156, 0);
    primary.extend(record(b"\0", 18, 2048, 2));
    primary.resize(881, b' ');
    primary.push(1);
    let mut image = vec![0; 16 * 2048];
    for sector in [primary, b"\xffCD001\x01".to_vec(), directory] {
        image.extend(sector);
        image.resize(image.len().next_multiple_of(2048), 0);
    }
    image.extend(data);
    image
}

/// A directory record (section 9.1).
fn record(name: &[u8], first: u32, size: u32, flags: u8) -> Vec<u8> {
    let length = u8::try_from((33 + name.len()).next_multiple_of(2)).unwrap();
    let mut record = vec![length, 0];
    record.extend(both_32(first));
    record.extend(both_32(size));
    // The date; flags, and no interleaving.
    record.extend([0; 7]);
    record.extend([flags, 0, 0]);
    record.extend(both_16(1));
    record.push(u8::try_from(name.len()).unwrap());
    record.extend(name);
    record.resize(length.into(), 0);
    record
}

/// A number with the smaller byte first, then with the larger one first (sections 7.2.3 and 7.3.3).
fn both_16(number: u16) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

fn both_32(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}

/// What util-linux takes the image for.
pub(super) fn probed(image: &[u8]) -> [String; 2] {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    fs::write(&path, image).unwrap();
    ["TYPE", "LABEL"]
        .map(|tag| run("blkid", &["-p", "-o", "value", "-s", tag, path.to_str().unwrap()]).trim_end().to_owned())
}
