//! `metalstrap attest serve`: an endpoint that attests machines while they are installed. For tests and small sites: it keeps
//! challenges in memory and accepted keys in a file.

mod accepted;
mod endpoint;
mod http;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;
use tokio::net::TcpListener;

use super::expect::ExpectArgs;
use super::pcrs::{DEFAULT, Pcrs};
use crate::output;
use accepted::Accepted;
use endpoint::Endpoint;

/// What is done with an endorsement key that was never accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FirstUse {
    /// It is accepted if all else holds: its certificate, where roots are given.
    Accept,
    /// Its machine is refused.
    Refuse,
}

/// Attests machines over HTTPS, as host configs tell them to (`attestation`).
///
/// A machine that is accepted gets the secrets for it, encrypted to its endorsement key. For tests and small sites; it answers
/// until it is stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap attest serve --listen 192.0.2.1:8443 --tls-certificate server.pem --tls-key server.key --accepted accepted.json \\
      --ek-roots tpm-roots --first-use accept --netboot netboot.efi --secrets secrets
Machines POST to /introduction and to /evidence. It prints a line of JSON with its address, then one for each verdict.")]
pub struct Args {
    /// Where it listens; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Its certificate, and those between it and its root, in PEM
    #[arg(long, value_name = "FILE")]
    tls_certificate: PathBuf,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// File with the endorsement keys that were accepted; it is made where there is none
    #[arg(long, value_name = "FILE")]
    accepted: PathBuf,
    /// What is done with an endorsement key that is neither in that file nor given
    #[arg(long, value_name = "RULE", default_value = "refuse")]
    first_use: FirstUse,
    /// Directory of secrets: its files are for every machine, those in a directory that is called by the name of an endorsement
    /// key for that machine
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Directory in which introduction, challenge, evidence and verdict of each exchange are kept, without secrets
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The PCRs that are to be quoted
    #[arg(long, value_name = "LIST", default_value = DEFAULT, value_parser = Pcrs::parse)]
    pcrs: Pcrs,
    #[command(flatten)]
    expect: ExpectArgs,
}

impl Args {
    /// Answers until it is stopped.
    ///
    /// # Errors
    /// What it starts from cannot be read, or nobody may listen there.
    pub fn run(self) -> Result<()> {
        let endpoint = Endpoint::new(
            self.expect.read()?,
            self.pcrs.0,
            Accepted::open(self.accepted)?,
            self.first_use,
            self.secrets,
            self.keep,
        );
        let tls = tls::config(&self.tls_certificate, &self.tls_key)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
        let at = self.listen;
        runtime.block_on(async {
            let listening = || format!("listening on {at}");
            let listener = TcpListener::bind(at).await.with_context(listening)?;
            let address = listener.local_addr().with_context(listening)?;
            output::print(&json!({"listening": address.to_string()}))?;
            tokio::select! {
                () = http::serve(listener, tls, Arc::new(endpoint)) => Ok(()),
                stopped = tokio::signal::ctrl_c() => stopped.context("waiting for an interrupt"),
            }
        })
    }
}
