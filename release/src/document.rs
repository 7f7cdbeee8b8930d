//! What the documents of a site have in common: JSON of a known `format`, at most so long, unknown fields refused.

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

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
    pub fn parse<T: DeserializeOwned + Serialize>(self, bytes: &[u8]) -> Result<T, DocumentError> {
        if bytes.len() > self.max_bytes {
            return Err(DocumentError::TooLong { document: self.name, length: bytes.len(), most: self.max_bytes });
        }
        let invalid = |source| DocumentError::Json { document: self.name, source };
        let document: T = serde_json::from_slice(bytes).map_err(invalid)?;
        // serde takes a list of values for an object.
        let (found, expected) =
            (serde_json::from_slice(bytes).map_err(invalid)?, serde_json::to_value(&document).map_err(invalid)?);
        match list_for_object(&found, &expected, "") {
            None => Ok(document),
            Some(path) => Err(invalid(serde_json::Error::custom(format!("{path} is a list, not an object")))),
        }
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

/// Path of the first list that stands where an object is meant.
fn list_for_object(found: &Value, expected: &Value, path: &str) -> Option<String> {
    match (found, expected) {
        (Value::Array(_), Value::Object(_)) => Some(if path.is_empty() { "it".to_owned() } else { path.to_owned() }),
        (Value::Object(found), Value::Object(expected)) => found.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            list_for_object(value, expected.get(name)?, &path)
        }),
        (Value::Array(found), Value::Array(expected)) => {
            found.iter().zip(expected).find_map(|(found, expected)| list_for_object(found, expected, path))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        number: u32,
    }

    #[test]
    fn a_list_is_no_object() {
        let kind = Kind { name: "thing", max_bytes: 100 };
        let parse = |text: &str| kind.parse::<Outer>(text.as_bytes());
        assert_eq!(parse(r#"{"inner": [{"number": 1}]}"#).unwrap(), Outer { inner: vec![Inner { number: 1 }] });
        for (text, path) in [(r#"[[{"number": 1}]]"#, "it"), (r#"{"inner": [{"number": 1}, [2]]}"#, "inner")] {
            let error = anyhow::Error::from(parse(text).unwrap_err());
            assert_eq!(format!("{error:#}"), format!("the thing is not valid: {path} is a list, not an object"));
        }
    }
}
