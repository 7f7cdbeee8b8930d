//! Names: the 8.3 alias every entry has, and the long name in entries before it (fatgen, "Long Directory Entries").

use anyhow::{Result, ensure};

/// Bytes of a directory entry.
pub(super) const SLOT: usize = 32;
/// UTF-16 units of a long name in one entry.
const UNITS: usize = 13;
const ATTRIBUTE_LONG_NAME: u8 = 0x0F;
/// In the sequence number of a long name's last part, which comes first.
const LAST_PART: u8 = 0x40;

/// An 8.3 name as it is stored: padded with spaces, without the dot.
pub(super) type Alias = [u8; 11];

/// Refuses names that FAT cannot hold, and those that mean something else.
pub(super) fn check(name: &str) -> Result<()> {
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"*/:<>?\\|".contains(&byte);
    ensure!(
        (1..=255).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.ends_with(['.', ' '])
            && !name.starts_with(' '),
        "{name:?} is no name that a FAT file system can hold"
    );
    Ok(())
}

/// The alias of `name`, unlike all that `taken` says yes to: the name itself in upper case if that is an 8.3 name,
/// else a shortened one with a number ("The Basis-Name Generation Algorithm").
pub(super) fn alias(name: &str, taken: impl Fn(&Alias) -> bool) -> Option<Alias> {
    let upper = name.to_ascii_uppercase();
    let (base, extension) = upper.trim_start_matches('.').rsplit_once('.').unwrap_or((&upper, ""));
    let fits = (1..=8).contains(&base.len())
        && extension.len() <= 3
        && base.bytes().chain(extension.bytes()).all(is_short)
        && (extension.is_empty() != upper.contains('.'));
    if fits {
        let whole = padded(base.as_bytes(), extension.as_bytes());
        if !taken(&whole) {
            return Some(whole);
        }
    }
    let shorten = |part: &str, most: usize| -> Vec<u8> {
        let kept = part.bytes().filter(|byte| !b" .".contains(byte));
        kept.map(|byte| if is_short(byte) { byte } else { b'_' }).take(most).collect()
    };
    let (base, extension) = (shorten(base, 8), shorten(extension, 3));
    (1..=999_999_u32).map(|number| numbered(&base, number, &extension)).find(|alias| !taken(alias))
}

/// `BASE~1.EXT`
fn numbered(base: &[u8], number: u32, extension: &[u8]) -> Alias {
    let tail = format!("~{number}");
    let kept = base.iter().take(8_usize.saturating_sub(tail.len())).copied();
    padded(&kept.chain(tail.bytes()).collect::<Vec<u8>>(), extension)
}

fn padded(base: &[u8], extension: &[u8]) -> Alias {
    let mut alias = [b' '; 11];
    let (to_base, to_extension) = alias.split_at_mut(8);
    to_base.iter_mut().zip(base).for_each(|(to, from)| *to = *from);
    to_extension.iter_mut().zip(extension).for_each(|(to, from)| *to = *from);
    alias
}

/// What an 8.3 name may consist of.
fn is_short(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&byte)
}

/// The entries of `name` that go before its short entry: none if the alias says it all.
pub(super) fn long_entries(name: &str, alias: &Alias) -> Vec<[u8; SLOT]> {
    if shown(alias) == name {
        return Vec::new();
    }
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(UNITS) {
        units.push(0);
        units.resize(units.len().next_multiple_of(UNITS), 0xFFFF);
    }
    let checksum = checksum(alias);
    let parts = units.chunks(UNITS).zip(1_u8..);
    let mut entries: Vec<_> = parts.map(|(part, number)| long_entry(part, number, checksum)).collect();
    if let Some(flag) = entries.last_mut().and_then(|entry| entry.first_mut()) {
        *flag |= LAST_PART;
    }
    entries.reverse();
    entries
}

fn long_entry(part: &[u16], number: u8, checksum: u8) -> [u8; SLOT] {
    let units: Vec<u8> = part.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let (first, rest) = units.split_at_checked(10).unwrap_or((&units, &[]));
    let (second, third) = rest.split_at_checked(12).unwrap_or((rest, &[]));
    let bytes = [&[number], first, &[ATTRIBUTE_LONG_NAME, 0, checksum], second, &[0, 0], third].concat();
    bytes.try_into().unwrap_or([0; SLOT])
}

/// The alias as readers show it.
pub(super) fn shown(alias: &Alias) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (base, extension) = alias.split_at(8);
    match (text(base), text(extension)) {
        (base, extension) if extension.is_empty() => base,
        (base, extension) => format!("{base}.{extension}"),
    }
}

/// Ties a long name to its alias ("ChkSum").
pub(super) fn checksum(alias: &Alias) -> u8 {
    alias.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias_of(name: &str, taken: &[&str]) -> String {
        let alias = alias(name, |alias| taken.contains(&String::from_utf8_lossy(alias).as_ref())).unwrap();
        String::from_utf8(alias.to_vec()).unwrap()
    }

    #[test]
    fn aliases_are_exact() {
        assert_eq!(alias_of("BOOTX64.EFI", &[]), "BOOTX64 EFI");
        assert_eq!(alias_of("Linux", &[]), "LINUX      ");
        assert_eq!(alias_of("loader.conf", &[]), "LOADER~1CON");
        assert_eq!(alias_of("systemd-bootx64.efi", &[]), "SYSTEM~1EFI");
        assert_eq!(alias_of("debian_1+3.efi", &[]), "DEBIAN~1EFI");
        assert_eq!(alias_of("debian_2+3.efi", &["DEBIAN~1EFI"]), "DEBIAN~2EFI");
        assert_eq!(alias_of("a+b", &[]), "A_B~1      ");
        assert_eq!(alias_of("..x.", &[]), "X~1        ");
        assert_eq!(alias_of("a.b.c", &[]), "AB~1    C  ");
        assert_eq!(alias_of("LINUX", &["LINUX      "]), "LINUX~1    ");
    }

    #[test]
    fn a_name_that_is_its_alias_has_no_long_entries() {
        assert!(long_entries("BOOTX64.EFI", b"BOOTX64 EFI").is_empty());
        assert_eq!(long_entries("Linux", b"LINUX      ").len(), 1);
        assert_eq!(long_entries("thirteen-char", b"THIRTE~1   ").len(), 1);
        assert_eq!(long_entries("fourteen-chars", b"FOURTE~1   ").len(), 2);
    }

    /// The bytes that `mmd ::/Linux` of mtools leaves.
    #[test]
    fn a_long_entry_is_exact() {
        let entries = long_entries("Linux", b"LINUX      ");
        let mut wanted = vec![0x41];
        wanted.extend(b"L\0i\0n\0u\0x\0");
        wanted.extend([0x0F, 0, 0x3C]);
        wanted.extend([0, 0]);
        wanted.extend([0xFF; 10]);
        wanted.extend([0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(entries.concat(), wanted);
    }

    #[test]
    fn names_fat_cannot_hold_are_refused() {
        for name in ["", "a:b", "a\\b", "ü", "a.", "a ", " a", "\u{7f}", &"x".repeat(256)] {
            let text = check(name).unwrap_err().to_string();
            assert_eq!(text, format!("{name:?} is no name that a FAT file system can hold"));
        }
        check("debian_1~rc.1^2+3.efi").unwrap();
    }
}
