//! What goes into the netboot initrd: drivers, cpio, UKI assembly.
//!
//! Everything here is deterministic: the same kernel package, installer and site config give the same bytes.

pub mod cpio;
mod der;
pub mod drivers;
pub mod embedded;
pub mod image;
pub mod index;
pub mod kernel;
pub mod modules;
pub mod netboot;
pub mod parts;
mod pe;
pub mod signature;
pub mod uki;

pub use kernel::Kernel;
pub use netboot::{NetbootOptions, NetbootSizes, netboot};
pub use signature::{Signer, authenticode, key_id};
pub use uki::BootTools;
