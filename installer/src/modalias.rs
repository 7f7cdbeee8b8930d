//! Which module drives a device: modalias strings against the patterns of `modules.alias`.

use std::collections::HashMap;

/// The patterns of `modules.alias`, kept by what stands before their first colon (the bus), in the file's order.
#[derive(Debug, Default)]
pub struct Aliases(HashMap<String, Vec<(String, String)>>);

impl Aliases {
    /// Reads `modules.alias`: lines `alias PATTERN MODULE`; others are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut aliases = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let entry = (pattern.to_owned(), module.to_owned());
                aliases.0.entry(bus_of_pattern(pattern).to_owned()).or_default().push(entry);
            }
        }
        aliases
    }

    /// Modules with a pattern that matches, each once, in the file's order.
    #[must_use]
    pub fn modules(&self, modalias: &str) -> Vec<&str> {
        let bus = modalias.split_once(':').map_or("", |(bus, _)| bus);
        let mut found: Vec<&str> = Vec::new();
        let buses = if bus.is_empty() { [Some(""), None] } else { [Some(bus), Some("")] };
        for (pattern, module) in buses.into_iter().flatten().filter_map(|bus| self.0.get(bus)).flatten() {
            if !found.contains(&module.as_str()) && matches(pattern, modalias) {
                found.push(module);
            }
        }
        found
    }
}

/// The bus of a pattern, or "" where that could match several.
fn bus_of_pattern(pattern: &str) -> &str {
    match pattern.split_once(':') {
        Some((bus, _)) if !bus.contains(['*', '?', '[', '\\']) => bus,
        _ => "",
    }
}

/// Matches as `fnmatch(3)` does without flags, which is what modprobe uses: `*`, `?`, `[…]`, `\` before a character.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last `*`, which then takes one byte more. Earlier stars need no
    // second try, so the time is bounded by the product of the lengths.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(p), text.get(t)) {
            (Some(b'*'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (None, None) => return true,
            (Some(_), Some(&byte)) => {
                if let Some(length) = one(pattern.get(p..).unwrap_or_default(), byte) {
                    (p, t) = (p + length, t + 1);
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((behind, from)) if from < text.len() => {
                retry = Some((behind, from + 1));
                (p, t) = (behind, from + 1);
            }
            _ => return false,
        }
    }
}

/// Length of the pattern element at the start of `pattern` if it takes `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'[', ref rest @ ..] => match class(rest, byte) {
            Some((true, length)) => Some(length + 1),
            Some((false, _)) => None,
            // Without an end it is no class but a bracket.
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [literal, ..] => (literal == byte).then_some(1),
        [] => None,
    }
}

/// Whether the class whose text starts behind `[` takes `byte`, and the length up to and with its `]`.
fn class(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let first = usize::from(negated);
    let mut at = first;
    let mut taken = false;
    loop {
        let low = *rest.get(at)?;
        if low == b']' && at > first {
            return Some((taken != negated, at + 1));
        }
        // `-` makes a range unless the class ends behind it.
        match (rest.get(at + 1), rest.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                taken |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                taken |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, written as one: what [`matches`] computes without recursion.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => (0..=text.len()).any(|skip| oracle(&pattern[1..], &text[skip..])),
            (Some(_), Some(&byte)) => one(pattern, byte).is_some_and(|n| oracle(&pattern[n..], &text[1..])),
            _ => false,
        }
    }

    /// What the shell's `case` says: POSIX matching by a program that is not ours.
    fn shell(pattern: &str, text: &str) -> bool {
        let script = r#"case "$1" in $2) exit 0;; esac; exit 1"#;
        let status = std::process::Command::new("sh").args(["-c", script, "sh", text, pattern]).status();
        status.expect("running sh").success()
    }

    #[test]
    fn real_aliases_match_real_devices() {
        let aliases = Aliases::parse(
            "# Aliases extracted from modules themselves.\n\
             alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n\
             alias pci:v00008086d000010FBsv*sd*bc*sc*i* ixgbe\n\
             alias pci:v*d*sv*sd*bc01sc08i02* nvme\n\
             alias virtio:d00000002v* virtio_blk\n\
             alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n\
             alias fs-efivarfs efivarfs\n\
             alias acpi*:PNP0C14:* wmi\n",
        );
        assert_eq!(aliases.modules("pci:v00008086d000010FBsv00008086sd00000003bc02sc00i00"), ["ixgbe"]);
        assert_eq!(aliases.modules("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"), ["nvme"]);
        assert_eq!(aliases.modules("virtio:d00000002v00001AF4"), ["virtio_blk"]);
        assert_eq!(aliases.modules("usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00"), ["usb_storage"]);
        assert_eq!(aliases.modules("acpi:PNP0C14:"), ["wmi"]);
        assert_eq!(aliases.modules("fs-efivarfs"), ["efivarfs"]);
        assert_eq!(aliases.modules("pci:v0000FFFFd000010FBsv0sd0bc02sc00i00"), [""; 0]);
    }

    #[test]
    fn classes_end_as_posix_says() {
        for (pattern, text, expected) in [
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[a-c]x", "bx", true),
            ("[a-]", "-", true),
            ("[^0-9]", "5", false),
            ("[0-9", "[0-9", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("**", "", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let start = std::time::Instant::now();
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199).repeat(20).replace("aa", "ab")[..150]));
        assert!(start.elapsed().as_secs() < 20);
    }

    proptest! {
        #[test]
        fn equals_its_definition(pattern in r"[ab*?\[\]!-]{0,10}", text in r"[ab\[-]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), oracle(pattern.as_bytes(), text.as_bytes()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn equals_the_shell(
            pattern in prop::collection::vec("[ab0:*?]|\\[[ab0-]\\]|\\[!a-b\\]|\\[0-9ab\\]|\\[a-\\]", 0..8),
            text in "[ab05:]{0,8}",
        ) {
            let pattern = pattern.concat();
            prop_assert_eq!(matches(&pattern, &text), shell(&pattern, &text), "{} against {}", pattern, text);
        }
    }
}
