//! Keys on PKCS#11 tokens: how they are named, and what `metalstrap` and `metalstrap-token` say to each other about them.
//!
//! `metalstrap` is a static program, which cannot load a token's module. So it starts `metalstrap-token`, which is linked
//! dynamically (the feature `program`), and asks it by lines of JSON.

mod curve;
pub mod protocol;
mod uri;

pub use curve::Kind;
pub use uri::{KeyUri, UriError};
