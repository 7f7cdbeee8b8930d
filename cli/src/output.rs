//! Standard output: one line of JSON. Standard error: what went wrong. What servers and guests have said is in neither as a
//! terminal would obey it.

use std::io::{Write as _, stdout};

use anyhow::{Context as _, Result};
use metalstrap_installer::escapes;
use serde::Serialize;
use serde_json::Value;

/// Prints the result of a verb.
///
/// # Errors
/// When nobody takes it.
pub fn print(result: &Value) -> Result<()> {
    writeln!(stdout(), "{}", escapes::json(&result.to_string())).context("writing the result")
}

/// A result as one line of JSON, to be printed.
///
/// # Errors
/// When it has no form in JSON.
pub fn line(result: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(result).context("writing the result as JSON")?;
    Ok(escapes::json(&text))
}

/// Says what went wrong.
pub fn complain(text: &str) {
    eprintln!("metalstrap: {}", escapes::lines(text));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_server_said_steers_no_terminal() {
        let text = line(&json!({"problems": ["\u{1b}]0;owned\u{7}\u{9b}\u{202e}\n"]})).unwrap();
        assert_eq!(text, r#"{"problems":["\u001b]0;owned\u0007\u009b\u202e\n"]}"#);
    }
}
