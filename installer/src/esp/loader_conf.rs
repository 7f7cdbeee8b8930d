//! systemd-boot's configuration on an ESP that stays (loader.conf(5)).

/// So many bytes of it are looked at.
pub(super) const MOST_BYTES: u32 = 64 << 10;
/// Options that choose what is started, instead of the newest that has attempts left. `preferred` is new in systemd 260.
const CHOICES: [&[u8]; 2] = [b"default", b"preferred"];

/// The configuration without the lines that choose what is started: that is for the host config to say, and `default` starts
/// what has no attempts left too, so that nothing would fall back. `None` if there is no such line.
pub(super) fn without_choice(text: &[u8]) -> Option<Vec<u8>> {
    let chooses = |line: &[u8]| {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next().is_some_and(|option| CHOICES.contains(&option))
    };
    let lines = || text.split_inclusive(|byte| *byte == b'\n');
    lines().any(chooses).then(|| lines().filter(|line| !chooses(line)).flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_choose_go_and_all_others_stay() {
        let rest = |text: &str| without_choice(text.as_bytes()).map(|rest| String::from_utf8(rest).unwrap());
        assert_eq!(rest("timeout 0\n"), None);
        assert_eq!(rest("# default x\ntimeout 3\ndefaults y\n"), None);
        assert_eq!(
            rest("timeout 3\r\n \tdefault debian_*\r\neditor no\npreferred x"),
            Some("timeout 3\r\neditor no\n".to_owned())
        );
        assert_eq!(rest("default\n"), Some(String::new()));
    }
}
