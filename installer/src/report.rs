//! Events and steps (being written): the wrapper around each step says started, progress, done or failed.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::progress::Progress;

/// Tells what happens. Clones tell into the same run.
#[derive(Debug, Clone, Default)]
pub struct Reporter(Arc<()>);

impl Reporter {
    /// An event outside of a step's start and end: `fields` are its details.
    pub fn tell(&self, step: &'static str, state: &'static str, fields: Map<String, Value>) {
        log::info!("{step} {state} {fields:?}");
    }

    /// Runs a step; `text` is a gerund with the object ("Reading the site config") and becomes context of its error.
    ///
    /// # Errors
    /// The step's, with `text` before it.
    pub fn step<T>(&self, _id: &'static str, text: &str, body: impl FnOnce(&Progress) -> Result<T>) -> Result<T> {
        body(&Progress::default()).with_context(|| text.to_owned())
    }

    /// The same for a step that waits.
    ///
    /// # Errors
    /// The step's, with `text` before it.
    pub async fn wait<T>(
        &self,
        _id: &'static str,
        text: &str,
        body: impl AsyncFnOnce(Progress) -> Result<T>,
    ) -> Result<T> {
        body(Progress::default()).await.with_context(|| text.to_owned())
    }
}
