//! The tiny target: an OS that is one static program. It reads the disk that it was started for, checks every block
//! up to the root hash on its kernel command line, says so in one line and powers the machine off. Tests that only
//! ask "does it boot what was signed?" install it; nothing here is part of a product image.

pub mod check;
pub mod disks;
pub mod image;
pub mod machine;
pub mod report;
pub mod words;
