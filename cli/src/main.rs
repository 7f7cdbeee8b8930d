//! `metalstrap`: the operator's command. One file a verb.
//!
//! Standard output carries one line of JSON with the result; progress and warnings go to standard error.

mod artifact;
mod attest;
mod checked;
mod clock;
mod completions;
mod directory;
mod ek;
mod encrypted;
mod files;
mod finish;
mod host;
mod keygen;
mod keys;
mod layout;
mod lifetimes;
mod man;
mod netboot;
mod output;
mod passphrase;
mod payloads;
mod predict;
mod progress;
mod publish;
mod refresh;
mod repository;
mod schema;
mod seen;
mod sign;
mod signing;
mod site;
mod size;
mod stage;
mod sysupdate;
mod terminal;
mod timestamp;
mod token;
mod tokens;
mod uki;
mod verify;
mod vm;
mod wait;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Publishes OS releases and makes the image that machines boot from the network to install them.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Keygen(keygen::Args),
    Publish(Box<publish::Args>),
    Host(host::Args),
    Refresh(refresh::Args),
    Timestamp(timestamp::Args),
    Sign(sign::Args),
    Finish(Box<finish::Args>),
    Token(token::Args),
    Site(site::Args),
    Netboot(netboot::Args),
    Predict(predict::Args),
    Attest(attest::Args),
    Verify(verify::Args),
    Vm(Box<vm::Args>),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Verb {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Keygen(args) => args.run()?,
            Self::Publish(args) => args.run()?,
            Self::Host(args) => args.run()?,
            Self::Refresh(args) => args.run()?,
            Self::Timestamp(args) => args.run()?,
            Self::Sign(args) => args.run()?,
            Self::Finish(args) => args.run()?,
            Self::Token(args) => args.run()?,
            Self::Site(args) => args.run()?,
            Self::Netboot(args) => args.run()?,
            Self::Predict(args) => args.run()?,
            Self::Attest(args) => return args.run(),
            Self::Verify(args) => return args.run(),
            Self::Vm(args) => return args.run(),
            Self::Schema(args) => args.run()?,
            Self::Completions(args) => args.run()?,
            Self::Man(args) => args.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn main() -> ExitCode {
    match Cli::parse().verb.run() {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
