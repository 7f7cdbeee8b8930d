//! Lists of PCRs, as a person writes them.

/// Which are asked for where nothing is said: the firmware's, the UKI's, and the installer's.
pub const DEFAULT: &str = "0-7,11-14";

/// PCRs of a command line: `0-7,11`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcrs(pub Vec<u32>);

impl Pcrs {
    /// Reads numbers and ranges with commas between them.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 24);
        let part = |part: &str| match part.split_once('-') {
            None => number(part).map(|pcr| pcr..=pcr),
            Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
        };
        let wrong = || format!("{text:?} is no list of PCRs like {DEFAULT:?}: there are 0 to 23");
        let ranges = text.split(',').map(part).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        let pcrs: Vec<_> = ranges.into_iter().flatten().collect();
        if pcrs.is_empty() { Err(wrong()) } else { Ok(Self(pcrs)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges_are_read() {
        let parse = |text| Pcrs::parse(text).map(|pcrs| pcrs.0);
        assert_eq!(parse(DEFAULT), Ok(vec![0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14]));
        assert_eq!(parse("13"), Ok(vec![13]));
        for wrong in ["", ",", "24", "0-24", "7-0", "a", "-1", "1-", "0,,1"] {
            let text = format!("{wrong:?} is no list of PCRs like \"0-7,11-14\": there are 0 to 23");
            assert_eq!(parse(wrong), Err(text));
        }
    }
}
