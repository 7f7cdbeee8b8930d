//! The seam between the metadata and whatever fetches its files, and tough's view of it.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use tough::{Transport, TransportError, TransportErrorKind, TransportStream, async_trait};
use url::Url;

use super::{DIRECTORY, MAX_BYTES, MetadataError};

/// Any error of a source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A file on its way.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, BoxError>> + Send + 'a>>;

/// Where metadata comes from. Nothing that it gives is trusted.
pub trait MetadataSource: Send + Sync + Debug {
    /// The whole file at `path` below the repository, at most `limit` bytes; `None` if there is no such file.
    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a>;
}

/// What a source looks like to tough, with a memory for what errors have to say.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    source: Arc<dyn MetadataSource>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The path that was asked for last.
    path: String,
    failure: Option<BoxError>,
}

impl Adapter {
    pub fn new(source: Arc<dyn MetadataSource>) -> Self {
        Self { source, state: Arc::default() }
    }

    /// The path that was asked for last.
    pub fn last(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).path.clone()
    }

    /// The source's own error, if it was the source that failed.
    pub fn failure(&self) -> Option<BoxError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.take()
    }

    async fn find(&self, url: &Url) -> Result<Bytes, TransportError> {
        let path = format!("{DIRECTORY}{}", url.path());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).path.clone_from(&path);
        match self.source.find(&path, MAX_BYTES).await {
            Ok(Some(bytes)) => Ok(bytes.into()),
            Ok(None) => Err(TransportError::new(TransportErrorKind::FileNotFound, path)),
            Err(error) => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(error);
                Err(TransportError::new(TransportErrorKind::Other, path))
            }
        }
    }

    /// What tough's `error` means here.
    pub fn explain(&self, error: &tough::error::Error) -> MetadataError {
        if let Some(failure) = self.failure() {
            return MetadataError::Source(failure);
        }
        MetadataError::from_tough(error, self.last())
    }
}

#[async_trait]
impl Transport for Adapter {
    /// An error is given as the stream's first item: given at once, tough would take a broken network for the absence
    /// of newer root metadata.
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let found = self.find(&url).await;
        Ok(Box::pin(stream::once(std::future::ready(found))))
    }
}

impl MetadataError {
    fn from_tough(error: &tough::error::Error, path: String) -> Self {
        use tough::error::Error;
        use tough::schema::Error as Schema;
        match error {
            Error::VerifyMetadata { source: Schema::SignatureThreshold { threshold, valid, .. }, .. }
            | Error::VerifyTrustedMetadata { source: Schema::SignatureThreshold { threshold, valid, .. }, .. } => {
                Self::Signatures { path, valid: *valid, needed: *threshold }
            }
            Error::Transport { source, .. } => match source.kind() {
                TransportErrorKind::FileNotFound => Self::Absent { path },
                _ => Self::from_cause(source, path),
            },
            other => Self::Invalid { path, problem: plain(other) },
        }
    }

    /// tough wraps its own errors about bytes on their way into those of the transport.
    fn from_cause(error: &TransportError, path: String) -> Self {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tough::error::Error>());
        match cause {
            Some(tough::error::Error::HashMismatch { calculated, expected, .. }) => {
                Self::Digest { path, found: calculated.clone(), expected: expected.clone() }
            }
            Some(tough::error::Error::MaxSizeExceeded { max_size, .. }) => {
                Self::Invalid { path, problem: format!("it has more than {max_size} bytes") }
            }
            _ => Self::Invalid { path, problem: error.to_string() },
        }
    }
}

/// An error of tough without the causes that its text repeats.
fn plain(error: &tough::error::Error) -> String {
    use tough::error::Error;
    use tough::schema::Error as Schema;
    match error {
        Error::ParseMetadata { source, .. } | Error::ParseTrustedMetadata { source, .. } => source.to_string(),
        Error::VerifyMetadata { source, .. } | Error::VerifyTrustedMetadata { source, .. } => match source {
            Schema::DuplicateKeyId { .. } => "it has two signatures by one key".to_owned(),
            other => other.to_string(),
        },
        Error::InvalidPath { source: Schema::TargetNotFound { name, .. }, .. } => {
            format!("it holds {:?}, which this role may not sign", name.raw())
        }
        other => other.to_string(),
    }
}
