//! Where tools run, and how they see the server.

use std::ffi::OsString;
use std::path::PathBuf;

/// One side of a link to the server.
#[derive(Debug, Clone)]
pub struct Client {
    /// `https://ADDRESS:PORT` of the server, as seen from here.
    pub url: String,
    /// Site config for metalstrap.
    pub site: PathBuf,
    /// What a command is started with, to run here.
    pub prefix: Vec<OsString>,
}
