//! Dates in headers, in the three forms that RFC 9110 section 5.6.7 has a recipient accept.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// The form that servers send, and the two that are obsolete (RFC 850's and that of C's `asctime`).
const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// Seconds since 1970 of an HTTP date; `None`: it is none.
#[must_use]
pub fn parse_date(text: &str) -> Option<i64> {
    let date = FORMS.iter().find_map(|form| strtime::parse(form, text).ok()?.to_datetime().ok())?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_one_time() {
        // The examples of RFC 9110 section 5.6.7.
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:60 GMT"), parse_date("Thu, 29 Feb 2024 23:59:59 GMT"));
    }

    #[test]
    fn other_texts_are_no_dates() {
        for text in ["", "soon", "-1", "Sun, 06 Nov 1994 08:49:37", "Mon, 30 Feb 2026 00:00:00 GMT", "1994-11-06"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
