//! A machine with a new disk and a new store of EFI variables: of all that it had seen, its TPM alone remembers.

use std::sync::Arc;

use metalstrap_release::metadata::{RECORD_BYTES, Versions};

use super::published::{Published, good};
use super::trial::{Outcome, Trial};
use crate::eventlog::Measurer;
use crate::failure::Code;
use crate::machine::Seams;
use crate::remembered::nv::INDEX;
use crate::tpm::Tpm as _;
use crate::tpm::nv::Content;
use crate::tpm::swtpm::Swtpm;

/// Installs to a blank disk of a machine with this TPM, which has no other memory.
async fn install(published: &Published, swtpm: &Arc<Swtpm>) -> Outcome {
    let mut trial = Trial::of(published);
    let (swtpm, log) = (Arc::clone(swtpm), trial.disk().with_file_name("measured.log"));
    trial.changes = Arc::new(move |seams: Seams| {
        let measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log);
        Seams { measurer: Some(measurer), ..seams }
    });
    trial.run().await
}

fn in_tpm(swtpm: &Swtpm) -> Versions {
    let Content::Bytes(record) = swtpm.connect().nv_read(INDEX, RECORD_BYTES).unwrap() else {
        panic!("the TPM remembers nothing");
    };
    Versions::from_record(&record).unwrap()
}

fn older_than(role: &str, known: u64) -> String {
    format!(
        "checking the repository's metadata: REPOSITORY: the repository's {role} metadata has version 1, but version {known} was \
         seen here before"
    )
}

#[tokio::test]
async fn an_older_state_than_the_tpm_has_seen_is_refused_on_a_blank_disk() {
    let swtpm = Arc::new(Swtpm::start());
    let mut newer = good();
    newer.edit("timestamp", |signed| signed["version"] = 2.into());
    let outcome = install(&newer, &swtpm).await;
    outcome.installed();
    let known = in_tpm(&swtpm);
    assert_eq!(outcome.remembered(), Some(known.clone()));

    install(&good(), &swtpm).await.before_the_plan(Code::MetadataRollback, &older_than("timestamp", 2));
    // A machine whose TPM has seen nothing takes it.
    install(&good(), &Arc::new(Swtpm::start())).await.installed();

    type Raise = fn(&mut Versions) -> &mut u64;
    let raises: [(&str, Raise); 4] = [
        ("root", |versions| &mut versions.root),
        ("snapshot", |versions| &mut versions.snapshot),
        ("targets", |versions| &mut versions.targets),
        ("hosts", |versions| &mut versions.hosts),
    ];
    for (role, raise) in raises {
        let mut known = known.clone();
        *raise(&mut known) = 7;
        swtpm.connect().nv_write(INDEX, &known.to_record()).unwrap();
        install(&newer, &swtpm).await.before_the_plan(Code::MetadataRollback, &older_than(role, 7));
        assert_eq!(in_tpm(&swtpm), known, "what is remembered stays");
    }
}
