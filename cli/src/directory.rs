//! The metadata of a repository that lies in a directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use metalstrap_release::metadata::{BoxError, Finding, MetadataSource};

/// A repository's directory as a source of metadata.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl MetadataSource for Directory {
    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        Box::pin(std::future::ready(read(&self.0.join(path), limit)))
    }
}

/// A directory with files that are not in it yet.
#[derive(Debug)]
pub struct Overlay {
    /// The files, by their path.
    pub new: BTreeMap<String, Vec<u8>>,
    /// What lies below them.
    pub old: Directory,
}

impl MetadataSource for Overlay {
    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        match self.new.get(path) {
            Some(bytes) => Box::pin(std::future::ready(Ok(Some(bytes.clone())))),
            None => self.old.find(path, limit),
        }
    }
}

fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, BoxError> {
    let failed = |error: std::io::Error| BoxError::from(format!("reading {}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take((limit as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(format!("reading {}: it has more than {limit} bytes", path.display()).into());
    }
    Ok(Some(bytes))
}
