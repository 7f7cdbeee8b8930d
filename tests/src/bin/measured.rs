//! The end of `make measured`: says whether out/measured/result.json is whole and right, and prints it.

use anyhow::{Result, ensure};
use metalstrap_tests::measured;

fn main() -> Result<()> {
    let result = measured::result()?;
    println!("{}", serde_json::to_string_pretty(&result)?);
    let complaints = measured::complaints(&result);
    ensure!(complaints.is_empty(), "out/measured/result.json is not as it should be:\n{}", complaints.join("\n"));
    Ok(())
}
