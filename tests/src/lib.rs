//! End-to-end scenarios and the demo: what they share.
//!
//! [`artifacts`] names what `make images` has built, [`release`] publishes it, [`reissue`] makes another version of it, [`observe`] lets the installed OS speak
//! for itself, [`replay`] recomputes the TPM's register without the installer's code, [`measured`] keeps what was shown.

pub mod artifacts;
pub mod demo;
pub mod image;
pub mod measured;
pub mod observe;
pub mod operator;
pub mod outcome;
pub mod proof;
pub mod quote;
pub mod reissue;
pub mod release;
pub mod replay;
pub mod scene;
pub mod uptime;
pub mod workbench;
