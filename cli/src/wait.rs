//! Metadata is loaded and signed asynchronously; everything else here is not.

use anyhow::{Context as _, Result};

/// Runs `future` to its end.
///
/// # Errors
/// When no runtime can be made.
pub fn wait<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("starting the runtime")?;
    Ok(runtime.block_on(future))
}
