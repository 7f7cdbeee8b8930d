//! Reads a file back out of the initrd of a netboot UKI: the archives lie one after the other, each a zstd frame with
//! zeroes behind it (see [`parts`](crate::parts) and [`image`](crate::image)).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::uki::{HEAD_BYTES, Sections, read_section};

use crate::parts::SITE;

/// The largest initrd that is looked at.
const MAX_INITRD: u64 = 512 << 20;
/// The most bytes that its archives may unpack to.
const MAX_UNPACKED: u64 = 2 << 30;
/// The largest file that is read out of one.
const MAX_FILE: u64 = 16 << 20;
/// Bytes of a cpio header (newc): its magic and 13 numbers of 8 hexadecimal digits.
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// The site config in the netboot UKI `path`, as it is.
///
/// # Errors
///
/// When the file is no UKI, or holds no site config.
pub fn site_config(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading the site config of {}", path.display());
    let found = initrd(path).and_then(|initrd| find(&initrd, SITE)).with_context(reading)?;
    found.with_context(|| format!("{} holds no {SITE}: is it a netboot UKI?", path.display()))
}

/// The section `.initrd` of a UKI.
fn initrd(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let sections = Sections::parse(&head)?;
    Ok(read_section(&mut file, sections.required(".initrd")?, MAX_INITRD)?)
}

/// The file `path` of an initrd; the last one of that name, which is the one that the kernel leaves.
fn find(initrd: &[u8], path: &str) -> Result<Option<Vec<u8>>> {
    // zstd's decoder goes from frame to frame; the zeroes between two of them are taken out here.
    let (mut rest, mut found, mut left) = (initrd, None, MAX_UNPACKED);
    loop {
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        rest = rest.get(zeroes..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(found);
        }
        let decoder = zstd::Decoder::with_buffer(&mut rest).context("starting to decompress")?;
        let mut archive = Archive { reader: BufReader::new(decoder.single_frame().take(left)) };
        while let Some((name, content)) = archive.next(path)? {
            if name == path {
                found = Some(content);
            }
        }
        left = archive.finish()?;
    }
}

/// Entries of one archive.
struct Archive<R> {
    reader: R,
}

impl<R: Read> Archive<BufReader<std::io::Take<R>>> {
    /// The next entry; its content only if its name is `wanted`. None at the archive's end.
    fn next(&mut self, wanted: &str) -> Result<Option<(String, Vec<u8>)>> {
        let mut header = [0; HEADER];
        self.reader.read_exact(&mut header).context("reading the header of an entry")?;
        ensure!(header.starts_with(b"070701"), "the archive is no cpio archive of the form newc");
        let (size, name_size) = (number(&header, 6)?, number(&header, 11)?);
        ensure!((1..=4096).contains(&name_size), "the archive has a name of {name_size} bytes");
        // Header and name together, and the content by itself, are filled up to multiples of 4.
        let name = self.read(name_size, HEADER as u64)?;
        let name = name.strip_suffix(b"\0").context("the archive has a name without end")?;
        let name = String::from_utf8_lossy(name).into_owned();
        if name == TRAILER {
            return Ok(None);
        }
        if name != wanted {
            let padded = size.next_multiple_of(4);
            let skipped = std::io::copy(&mut Read::by_ref(&mut self.reader).take(padded), &mut std::io::sink())?;
            ensure!(skipped == padded, "the archive ends in the midst of {name}");
            return Ok(Some((name, Vec::new())));
        }
        ensure!(size <= MAX_FILE, "{name} has {size} bytes, more than {MAX_FILE}");
        let content = self.read(size, 0)?;
        Ok(Some((name, content)))
    }

    /// `size` bytes, and those that fill `before` and them up to a multiple of 4.
    fn read(&mut self, size: u64, before: u64) -> Result<Vec<u8>> {
        let padding = (before + size).next_multiple_of(4) - before - size;
        let mut bytes = Vec::new();
        Read::by_ref(&mut self.reader).take(size + padding).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 == size + padding, "the archive ends in the midst of an entry");
        bytes.truncate(usize::try_from(size)?);
        Ok(bytes)
    }

    /// Reads what is behind the trailer; returns how many bytes may still be unpacked.
    fn finish(mut self) -> Result<u64> {
        loop {
            let length = self.reader.fill_buf()?.len();
            if length == 0 {
                break;
            }
            self.reader.consume(length);
        }
        match self.reader.get_ref().limit() {
            0 => bail!("the archives unpack to more than {MAX_UNPACKED} bytes"),
            left => Ok(left),
        }
    }
}

/// The number `index` of a header.
fn number(header: &[u8; HEADER], index: usize) -> Result<u64> {
    let digits = header.get(6 + 8 * index..14 + 8 * index).context("finding a number of an entry")?;
    let digits = std::str::from_utf8(digits).context("reading a number of an entry")?;
    Ok(u32::from_str_radix(digits, 16).context("reading a number of an entry")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio;
    use crate::image::compress;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = cpio::Archive::new();
        for (path, bytes) in files {
            archive.file(path, 0o644, bytes.to_vec()).unwrap();
        }
        compress(&archive.to_bytes()).unwrap()
    }

    #[test]
    fn the_last_file_of_a_name_is_found_in_whatever_archive() {
        let drivers = archive(&[("lib/modules/a.ko", &[7; 70_001]), ("lib/modules/b.ko", b"")]);
        let site = archive(&[("etc/metalstrap/build-time", b"1\n"), (SITE, b"{ }\n\n")]);
        let (one, other) =
            ([drivers.clone(), site.clone()].concat(), [site, drivers, archive(&[(SITE, b"{}")])].concat());
        assert_eq!(find(&one, SITE).unwrap().unwrap(), b"{ }\n\n");
        assert_eq!(find(&other, SITE).unwrap().unwrap(), b"{}");
        assert_eq!(find(&one, "lib/modules/a.ko").unwrap().unwrap(), [7; 70_001]);
        assert_eq!(find(&one, "lib/modules/c.ko").unwrap(), None);
        assert_eq!(find(&[0; 8], SITE).unwrap(), None);
    }

    #[test]
    fn what_is_no_initrd_of_ours_is_refused() {
        let refusal = |initrd: &[u8]| format!("{:#}", find(initrd, SITE).unwrap_err());
        assert!(refusal(b"070701 not compressed").starts_with("reading the header of an entry: "));
        assert_eq!(refusal(&compress(&[b'x'; 200]).unwrap()), "the archive is no cpio archive of the form newc");
        let whole = cpio::Archive::new().to_bytes();
        assert_eq!(refusal(&compress(&whole[..112]).unwrap()), "the archive ends in the midst of an entry");
        let mut bad = whole;
        bad[6 + 8 * 11] = b'x';
        assert_eq!(refusal(&compress(&bad).unwrap()), "reading a number of an entry: invalid digit found in string");
    }

    #[test]
    fn a_file_that_is_no_uki_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netboot.efi");
        std::fs::write(&path, "text").unwrap();
        let error = format!("{:#}", site_config(&path).unwrap_err());
        let shown = path.display();
        assert_eq!(
            error,
            format!("reading the site config of {shown}: the UKI is no PE file: it does not start with MZ")
        );
    }
}
