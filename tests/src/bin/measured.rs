//! The end of `make measured` and of `make test`: says whether out/measured/result.json is whole and right, and prints it. With
//! `--busy`, as the latter, other scenarios ran while boots were timed.

use anyhow::{Result, bail, ensure};
use metalstrap_tests::measured::{self, Host};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let host = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Host::Quiet,
        ["--busy"] => Host::Busy,
        _ => bail!("usage: measured [--busy]"),
    };
    let result = measured::result()?;
    println!("{}", serde_json::to_string_pretty(&result)?);
    let complaints = measured::complaints(&result, host);
    ensure!(complaints.is_empty(), "out/measured/result.json is not as it should be:\n{}", complaints.join("\n"));
    Ok(())
}
