//! Comparing versions as systemd does (UAPI Group, "Version Format Specification"; systemd src/fundamental/string-util-fundamental.c,
//! `strverscmp_improved`): the order of boot entries, of slots and of what systemd-sysupdate finds.

use std::cmp::Ordering;

/// Whether `one` is an older (`Less`) or a newer (`Greater`) version than `other`.
///
/// ```
/// use std::cmp::Ordering::Less;
/// assert_eq!(metalstrap_release::version::compare("13.2~rc1", "13.2"), Less);
/// ```
#[must_use]
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut a, mut b) = (one.as_bytes(), other.as_bytes());
    loop {
        (a, b) = (separated(a), separated(b));
        // `~` is before the end of a version, the others are behind it. What separates is left out once a round only, as there.
        let order = mark(b'~', &mut a, &mut b);
        if order != Ordering::Equal {
            return order;
        }
        if a.is_empty() || b.is_empty() {
            return b.is_empty().cmp(&a.is_empty());
        }
        let order = [b'-', b'^', b'.'].into_iter().map(|sign| mark(sign, &mut a, &mut b));
        let order = order.fold(Ordering::Equal, Ordering::then);
        if order != Ordering::Equal {
            return order;
        }
        let is_number = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        let (order, a_length, b_length) = if is_number(a) || is_number(b) { numbers(a, b) } else { words(a, b) };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a.get(a_length..).unwrap_or_default(), b.get(b_length..).unwrap_or_default());
    }
}

/// A version that begins with this sign is older than one that does not. Both lose it if both have it.
fn mark(sign: u8, a: &mut &[u8], b: &mut &[u8]) -> Ordering {
    match (a.strip_prefix(&[sign]), b.strip_prefix(&[sign])) {
        (Some(rest_of_a), Some(rest_of_b)) => {
            (*a, *b) = (rest_of_a, rest_of_b);
            Ordering::Equal
        }
        (one, other) => other.is_some().cmp(&one.is_some()),
    }
}

/// Without what separates only: everything but letters, digits and marks that have a meaning.
fn separated(text: &[u8]) -> &[u8] {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.~^".contains(byte);
    let start = text.iter().position(counts).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// Compares the numbers that both begin with; a number is newer than none. Gives their lengths too.
fn numbers(a: &[u8], b: &[u8]) -> (Ordering, usize, usize) {
    let number = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (a_length, b_length) = (number(a), number(b));
    // Leading zeroes count for nothing; then the longer one is larger.
    let significant = |text: &[u8], length: usize| -> Vec<u8> {
        text.iter().take(length).copied().skip_while(|digit| *digit == b'0').collect()
    };
    let (one, other) = (significant(a, a_length), significant(b, b_length));
    let order = (a_length > 0).cmp(&(b_length > 0)).then(one.len().cmp(&other.len())).then(one.cmp(&other));
    (order, a_length, b_length)
}

/// Compares the letters that both begin with. Gives their lengths too.
fn words(a: &[u8], b: &[u8]) -> (Ordering, usize, usize) {
    let word = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (a_length, b_length) = (word(a), word(b));
    (a.get(..a_length).cmp(&b.get(..b_length)), a_length, b_length)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_in_the_order_of_the_specification() {
        // The specification's own list, from old to new.
        let ascending = [
            "~1",
            "",
            "ab",
            "abb",
            "abc",
            "0001",
            "002",
            "12",
            "122",
            "122.9",
            "123~rc1",
            "123",
            "123-a",
            "123-a.1",
            "123-a1",
            "123-a1.1",
            "123-3",
            "123-3.1",
            "123^patch1",
            "123^1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124",
        ];
        for (n, older) in ascending.iter().enumerate() {
            for newer in ascending.iter().skip(n + 1) {
                assert_eq!(compare(older, newer), Ordering::Less, "{older:?} {newer:?}");
                assert_eq!(compare(newer, older), Ordering::Greater, "{newer:?} {older:?}");
            }
        }
        assert_eq!([compare("1.02", "1.2"), compare("1_2", "1__2")], [Ordering::Equal; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn versions_are_ordered_as_systemd_orders_them(one in "[0-3a-c.~^_-]{1,7}", other in "[0-3a-c.~^_-]{1,7}") {
            let output = Command::new("systemd-analyze").args(["compare-versions", "--", &one, &other]).output().unwrap();
            let expected = match output.status.code() {
                Some(0) => Ordering::Equal,
                Some(11) => Ordering::Greater,
                Some(12) => Ordering::Less,
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
            };
            prop_assert_eq!(compare(&one, &other), expected);
        }
    }
}
