//! What systemd-boot starts first (`boot_entry_compare` in its src/boot/boot.c): the newest version that has attempts left.

use std::cmp::Ordering;

use super::files::Named;

/// A UKI as systemd-boot lists it. The order goes by its name: every release of ours has the same sort key, and in its name
/// the version that its `.osrel` section has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub file: Named,
    /// Name and version, without attempts and ending.
    id: String,
    /// Attempts left, where they are counted.
    left: Option<u32>,
}

impl Entry {
    /// `None` for what is no UKI.
    pub fn new(file: Named) -> Option<Self> {
        let lower = file.name.to_ascii_lowercase();
        let stem = lower.strip_suffix(".efi")?;
        let counted = stem.rsplit_once('+').and_then(|(id, counts)| {
            let (left, done) = counts.split_once('-').unwrap_or((counts, "0"));
            done.parse::<u32>().ok()?;
            Some((id.to_owned(), left.parse().ok()?))
        });
        let (id, left) = counted.map_or_else(|| (stem.to_owned(), None), |(id, left)| (id, Some(left)));
        Some(Self { file, id, left })
    }

    /// Whether it comes last once it was started in vain as often as its name says.
    pub fn gives_way(&self) -> bool {
        self.left.is_some()
    }
}

/// The order in which they are tried.
pub fn in_order(entries: impl IntoIterator<Item = Named>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = entries.into_iter().filter_map(Entry::new).collect();
    entries.sort_by(|a, b| {
        let worn_out = |entry: &Entry| entry.left == Some(0);
        worn_out(a).cmp(&worn_out(b)).then_with(|| versions(b.id.as_bytes(), a.id.as_bytes())).then(b.left.cmp(&a.left))
    });
    entries
}

/// The order of two versions, the older first (`strverscmp_improved` in systemd's string-util-fundamental.c).
fn versions(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
        a = &a[a.iter().position(valid).unwrap_or(a.len())..];
        b = &b[b.iter().position(valid).unwrap_or(b.len())..];
        for mark in *b"~ -^." {
            // A version that ends here is older, but for what comes after `~`.
            if mark == b' ' && (a.is_empty() || b.is_empty()) {
                return a.len().min(1).cmp(&b.len().min(1));
            }
            match (a.first() == Some(&mark), b.first() == Some(&mark)) {
                (false, false) => {}
                (true, true) => (a, b) = (&a[1..], &b[1..]),
                (here, there) => return there.cmp(&here),
            }
        }
        let starts = |text: &[u8], is: fn(&u8) -> bool| text.iter().take_while(|byte| is(byte)).count();
        let numeric = [a, b].iter().any(|text| text.first().is_some_and(u8::is_ascii_digit));
        let is: fn(&u8) -> bool = if numeric { u8::is_ascii_digit } else { u8::is_ascii_alphabetic };
        let ((part, rest), (other, behind)) = (a.split_at(starts(a, is)), b.split_at(starts(b, is)));
        let order = if numeric { numbers(part, other) } else { part.cmp(other) };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest, behind);
    }
}

/// Numbers of any length; none at all is the least.
fn numbers(a: &[u8], b: &[u8]) -> Ordering {
    let plain = |text: &[u8]| text.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<u8>>();
    let (c, d) = (plain(a), plain(b));
    (!a.is_empty()).cmp(&!b.is_empty()).then(c.len().cmp(&d.len())).then_with(|| c.cmp(&d))
}

#[test]
fn versions_are_in_the_order_of_systemd() {
    // From the table in systemd's documentation of `systemd-analyze compare-versions` and its test-string-util.c.
    let ascending =
        ["122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1"];
    let later = ["123a-1", "124-1", "1230"];
    let all: Vec<_> = ascending.into_iter().chain(later).collect();
    for (a, older) in all.iter().enumerate() {
        for (b, newer) in all.iter().enumerate() {
            assert_eq!(versions(older.as_bytes(), newer.as_bytes()), a.cmp(&b), "{older} {newer}");
        }
    }
    assert_eq!(versions(b"0123", b"123"), Ordering::Equal);
    assert_eq!(versions(b"1_2", b"1+2"), Ordering::Equal);
}

#[test]
fn the_newest_with_attempts_left_comes_first() {
    let order = |names: &[&str]| -> Vec<String> {
        let named = names.iter().map(|name| Named::called(name));
        in_order(named).into_iter().map(|entry| entry.file.name).collect()
    };
    let names = ["tiny_9+0-3.efi", "tiny_1.efi", "README", "tiny_2+3.efi", "TINY_10+2-1.EFI", "tiny_2+1-2.efi"];
    let expected = ["TINY_10+2-1.EFI", "tiny_2+3.efi", "tiny_2+1-2.efi", "tiny_1.efi", "tiny_9+0-3.efi"];
    assert_eq!(order(&names), expected);
}
