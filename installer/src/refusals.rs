//! Whole installations that must be refused: each from a repository that is right but for one thing, onto a recording
//! disk. Before the plan no byte is written; after it, none that did not verify. And what is installed is mended.

mod allowed;
mod credentials;
mod disks;
mod endless;
mod erasing;
mod escapes;
mod firmware;
mod forms;
mod frames;
mod hosts;
mod keys;
mod manifests;
mod mending;
mod metadata;
mod names;
mod payloads;
pub(crate) mod published;
mod record;
mod remembered;
mod replays;
mod secrets;
mod secure_boot;
mod seek_tables;
mod servers;
mod signing;
mod sources;
mod times;
mod tls;
mod tpms;
mod transfers;
pub(crate) mod trial;
mod written;
