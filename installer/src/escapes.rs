//! Texts as a console may have them. SMBIOS, DHCP, servers and disks say what they like, and a terminal does what some characters
//! say; so whatever does not stand for itself is shown as the escape that Rust writes for it: control characters, line ends, and
//! those that turn the direction of writing or are not seen. Quotes and backslashes stay.
//!
//! Every line goes through here on its way to a console, the kernel's log or standard error, and every text of an event that is
//! made for people when it is made.

use std::fmt::Write as _;

/// The text as one line.
#[must_use]
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

/// Several lines that are ours.
#[must_use]
pub fn lines(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The same JSON, whose strings have such characters as escapes of JSON. Its own line ends stay.
#[must_use]
pub fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) || c == '\n' {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    shown
}

/// Whether it stands for itself on any terminal.
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') || c.escape_debug().count() == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        for (text, shown) in [
            ("plain … \"quoted\" 'so' \\ ü 漢 →", "plain … \"quoted\" 'so' \\ ü 漢 →"),
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\rb\nc\td\0", "a\\rb\\nc\\td\\0"),
            ("\u{202e}txt.exe\u{2066}", "\\u{202e}txt.exe\\u{2066}"),
            ("\u{200b}\u{feff}\u{2028}\u{a0}\u{e0041}", "\\u{200b}\\u{feff}\\u{2028}\\u{a0}\\u{e0041}"),
        ] {
            assert_eq!(line(text), shown);
            assert_eq!(line(shown), shown, "nothing is escaped twice");
        }
        assert_eq!(lines("a\u{1b}\n\nb\r\n"), "a\\u{1b}\n\nb\\r\n");
    }

    #[test]
    fn json_stays_what_it_says() {
        let text = json("{\n\"a\": \"\u{9b}\u{202e}\u{e0041}ü\\u001b\"\n}");
        assert_eq!(text, "{\n\"a\": \"\\u009b\\u202e\\udb40\\udc41ü\\u001b\"\n}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"a": "\u{9b}\u{202e}\u{e0041}ü\u{1b}"}));
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_line_and_any_json_stays(text in prop::collection::vec(any::<char>(), 0..40)) {
            let text: String = text.into_iter().collect();
            let raw = line(&text).chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
            prop_assert!(!raw);
            let value = json!({(text.as_str()): [text.as_str()]});
            let shown = json(&value.to_string());
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
    }
}
