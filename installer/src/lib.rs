//! metalstrap's installer: PID 1 of a tiny netboot initrd, and an ordinary command on any Linux.
//!
//! Start at [`install`]: every name there is a module beside it.

pub mod access;
pub mod attestation;
pub mod boot_files;
pub mod bootvars;
pub mod bounded;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod converge;
pub mod credentials;
pub mod death;
pub mod dhcp;
pub mod dhcp6;
pub mod discovery;
pub mod disk;
pub mod drivers;
pub mod ending;
pub mod erase;
pub mod escapes;
pub mod esp;
pub mod eventlog;
pub mod failure;
pub mod fat;
pub mod fetch;
pub mod gpt;
pub mod handoff;
pub mod hold;
pub mod holders;
pub mod http;
pub mod https;
pub mod init;
pub mod install;
pub mod intents;
pub mod inventory;
pub mod kmsg;
pub mod last_words;
pub mod leave;
pub mod link;
pub mod look;
pub mod machine;
pub mod media;
pub mod meminfo;
pub mod modalias;
pub mod modules;
pub mod mounts;
pub mod name_server;
pub mod net;
pub mod ntp;
pub mod outbox;
pub mod plan;
pub mod post;
pub mod progress;
pub mod proxy;
pub mod remembered;
pub mod report;
pub mod repository;
pub mod resolve;
pub mod router;
pub mod screen;
pub mod secrets;
pub mod secure_boot;
pub mod smbios;
pub mod stages;
pub mod summary;
pub mod supervisor;
pub mod sys;
pub mod target;
pub mod time_server;
pub mod tls;
pub mod tpm;
pub mod uevent;
pub mod waits;
pub mod watchdog;
pub mod watermark;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod https_tests;
#[cfg(test)]
mod not_run;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod test_server;
