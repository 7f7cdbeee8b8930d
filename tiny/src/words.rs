//! The words of a kernel command line.

/// The value of the last `key=value` in `line`. Double quotes keep blanks together and are not part of the value.
#[must_use]
pub fn value(line: &str, key: &str) -> Option<String> {
    let value_of = |word: &String| word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    split(line).iter().rev().find_map(value_of)
}

fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        let line = "panic=30 roothash=ab saboteur.after=\"a b\" \"saboteur.x=c d\" roothash=cd gpt\n";
        assert_eq!(value(line, "roothash").as_deref(), Some("cd"));
        assert_eq!(value(line, "saboteur.after").as_deref(), Some("a b"));
        assert_eq!(value(line, "saboteur.x").as_deref(), Some("c d"));
        assert_eq!(value(line, "gpt"), None);
        assert_eq!(value(line, "root"), None);
    }
}
