//! What the documents of a site have in common: JSON of a known `format`, at most so long, unknown fields refused.

use serde::de::DeserializeOwned;

/// The only format of documents that this code reads.
pub const FORMAT: u32 = 1;

/// Why bytes are no document that this code takes.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than documents of its kind may be.
    #[error("the {document} has {length} bytes, more than the {most} allowed")]
    TooLong {
        /// Which document.
        document: &'static str,
        /// Its bytes.
        length: usize,
        /// The most that are read.
        most: usize,
    },
    /// Not JSON of its shape.
    #[error("the {document} is not valid")]
    Json {
        /// Which document.
        document: &'static str,
        /// Where, and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value that cannot hold.
    #[error("the {document}'s {field} {problem}")]
    Value {
        /// Which document.
        document: &'static str,
        /// Path of the field in the document.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// One kind of document.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What errors call it.
    pub name: &'static str,
    /// No document of this kind has more bytes; the installer stops reading there.
    pub max_bytes: usize,
}

impl Kind {
    /// Parses `bytes`; what the shape does not say is for the caller to check.
    ///
    /// # Errors
    /// Names what is wrong, with line and column.
    pub fn parse<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DocumentError> {
        if bytes.len() > self.max_bytes {
            return Err(DocumentError::TooLong { document: self.name, length: bytes.len(), most: self.max_bytes });
        }
        serde_json::from_slice(bytes).map_err(|source| DocumentError::Json { document: self.name, source })
    }

    /// The error for a value that cannot hold.
    ///
    /// # Errors
    /// Always.
    pub fn refuse<T>(self, field: &'static str, problem: impl Into<String>) -> Result<T, DocumentError> {
        Err(DocumentError::Value { document: self.name, field, problem: problem.into() })
    }

    /// Checks a document's `format`.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_format(self, format: u32) -> Result<(), DocumentError> {
        if format == FORMAT {
            return Ok(());
        }
        self.refuse("format", format!("is {format}, but this installer reads {FORMAT}"))
    }
}
