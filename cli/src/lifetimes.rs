//! How long signatures hold, as options say it.

use anyhow::Result;
use metalstrap_release::metadata::Lifetimes;

use crate::clock;

/// How long signatures hold.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Signatures")]
pub struct LifetimeArgs {
    /// Days that root metadata holds
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().root, value_parser = clap::value_parser!(u32).range(1..))]
    root_days: u32,
    /// Days that the list of releases holds
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().targets, value_parser = clap::value_parser!(u32).range(1..))]
    targets_days: u32,
    /// Days that the list of host configs holds
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().hosts, value_parser = clap::value_parser!(u32).range(1..))]
    hosts_days: u32,
    /// Days that snapshot and timestamp hold: how long a mirror can serve an old state unnoticed
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().snapshot, value_parser = clap::value_parser!(u32).range(1..))]
    online_days: u32,
    /// Days that the timestamp holds, if others than the snapshot
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    timestamp_days: Option<u32>,
    /// Seconds of Unix time that signatures count from [default: now]
    #[arg(long, value_name = "SECONDS", hide = true)]
    now: Option<i64>,
}

impl LifetimeArgs {
    /// As the metadata takes them.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            root: self.root_days,
            targets: self.targets_days,
            hosts: self.hosts_days,
            snapshot: self.online_days,
            timestamp: self.timestamp_days.unwrap_or(self.online_days),
        }
    }

    /// Seconds since 1970.
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn now(&self) -> Result<i64> {
        self.now.map_or_else(clock::now, Ok)
    }
}
