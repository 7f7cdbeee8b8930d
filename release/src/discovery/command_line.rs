//! Words of a kernel command line, read as the kernel reads them.

use super::{PREFIX, Word};

/// Our words in `bytes`, in their order; `-` in a key counts as `_`, as it does for the kernel (`parameq` in
/// kernel/params.c). What stands behind a lone `--`, for the kernel the arguments of PID 1, is read like the rest: PID 1 is
/// ours.
#[must_use]
pub fn words(bytes: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    // /proc/cmdline ends with a line end.
    let mut rest = skip_spaces(bytes);
    while !rest.is_empty() {
        let (name, value, behind) = next(rest);
        if let Some(key) = name.strip_prefix(PREFIX.as_bytes()) {
            let key = key.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
            words.push(Word { key, value: value.map(<[u8]>::to_vec) });
        }
        rest = skip_spaces(behind);
    }
    words
}

/// The first parameter, its value, and what stands behind it: `next_arg` of the kernel's lib/cmdline.c. Quotes hold spaces
/// together, around the whole parameter or within it; they go away where they stand around the whole parameter or around its
/// value, and only there.
fn next(args: &[u8]) -> (&[u8], Option<&[u8]>, &[u8]) {
    let (quoted, args) = args.strip_prefix(b"\"").map_or((false, args), |args| (true, args));
    let (mut in_quote, mut equals, mut end) = (quoted, None, args.len());
    for (at, byte) in args.iter().enumerate() {
        match byte {
            byte if is_space(*byte) && !in_quote => {
                end = at;
                break;
            }
            // At the very beginning it does not count, and is part of the name.
            b'=' if at > 0 && equals.is_none() => equals = Some(at),
            b'"' => in_quote = !in_quote,
            _ => {}
        }
    }
    let (arg, behind) = args.split_at_checked(end).unwrap_or((args, &[]));
    let unquoted = |text| strip_last_quote(text, quoted);
    match equals.and_then(|at| Some((arg.get(..at)?, arg.get(at.checked_add(1)?..)?))) {
        None => (unquoted(arg), None, behind),
        Some((name, value)) => {
            let value = match value.strip_prefix(b"\"") {
                Some(value) => strip_last_quote(value, true),
                None => unquoted(value),
            };
            (name, Some(value), behind)
        }
    }
}

fn strip_last_quote(text: &[u8], quoted: bool) -> &[u8] {
    if quoted { text.strip_suffix(b"\"").unwrap_or(text) } else { text }
}

fn skip_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|byte| is_space(**byte)).count();
    bytes.get(spaces..).unwrap_or_default()
}

/// The kernel's `isspace` (lib/ctype.c): the white space of ASCII, and the no-break space of Latin-1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys and values as text.
    fn read(line: &str) -> Vec<(String, Option<String>)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        words(line.as_bytes()).into_iter().map(|word| (text(word.key), word.value.map(text))).collect()
    }

    #[test]
    fn words_of_others_are_left_alone() {
        assert_eq!(read("quiet console=ttyS0 metalstrapx.host=1 xmetalstrap.host=1 metalstrap panic=30\n"), []);
        assert_eq!(read(""), []);
        assert_eq!(read(" \t\n"), []);
    }

    #[test]
    fn quotes_are_those_of_the_kernel() {
        for (line, key, value) in [
            ("metalstrap.host=default", "host", Some("default")),
            (" a=b\tmetalstrap.host=default\u{b}c", "host", Some("default")),
            ("a -- metalstrap.host=b", "host", Some("b")),
            ("metalstrap.report-url=a-b", "report_url", Some("a-b")),
            ("metalstrap.host", "host", None),
            ("metalstrap.host=", "host", Some("")),
            ("metalstrap.host=a=b", "host", Some("a=b")),
            ("metalstrap.mirrors=\"a b\" c", "mirrors", Some("a b")),
            ("\"metalstrap.mirrors=a b\" c", "mirrors", Some("a b")),
            ("\"metalstrap.host\" c", "host", None),
            ("metalstrap.mirrors=a\" \"b c", "mirrors", Some("a\" \"b")),
            ("metalstrap.mirrors=a\" b\" c", "mirrors", Some("a\" b\"")),
            ("metalstrap.mirrors=\"a b", "mirrors", Some("a b")),
            ("metalstrap.host=\"", "host", Some("")),
            ("\"metalstrap.host=\"\"a\"", "host", Some("\"a")),
        ] {
            assert_eq!(read(line), [(key.to_owned(), value.map(str::to_owned))], "{line}");
        }
        // A quote that is not closed takes the rest with it.
        assert_eq!(read("x=\"y metalstrap.host=a"), []);
        let two = read("metalstrap.host=a x metalstrap.host=b");
        assert_eq!(two, [("host".to_owned(), Some("a".to_owned())), ("host".to_owned(), Some("b".to_owned()))]);
    }

    #[test]
    fn the_no_break_space_of_latin_1_parts_words() {
        let word = |key: &[u8], value: &[u8]| Word { key: key.to_vec(), value: Some(value.to_vec()) };
        assert_eq!(words(b"metalstrap.host=a\xa0metalstrap.x=\xff"), [word(b"host", b"a"), word(b"x", b"\xff")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let line = [b"metalstrap.", bytes.as_slice(), b" metalstrap.host=a"].concat();
            for word in words(&line).into_iter().chain(words(&bytes)) {
                prop_assert!(word.key.len() < line.len());
            }
        }
    }
}
