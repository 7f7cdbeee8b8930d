//! Remote attestation: what a machine says of itself, what a verifier asks, what the machine's TPM answers, and what follows.
//!
//! ```text
//! machine    Introduction   its endorsement key and an attestation key
//! verifier   Challenge      a secret that only this TPM opens, for this attestation key alone, and a nonce
//! machine    Evidence       the secret, quotes over the PCRs with the nonce, both logs
//! verifier   Verdict        what was proved and what not, and what the machine gets for it
//! ```
//!
//! Without a challenge the final event of a run has a [`Report`], which proves less.

mod form;
mod pending;
mod report;
mod verify;

pub use form::{
    Base64, CHALLENGE, Challenge, EVIDENCE, Evidence, Finding, INTRODUCTION, Introduction, Outcome, Quote, VERDICT,
    Verdict,
};
pub use pending::Pending;
pub use report::{Attestation, REPORTED, Report};
pub use verify::{EK_CERTIFICATE, Expected, Program, Release, verify, verify_report};
