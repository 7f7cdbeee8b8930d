//! The host config requires a TPM, and the machine has none.

use metalstrap_release::host::TpmPolicy;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::Scene;

#[test]
fn a_machine_without_the_tpm_that_it_must_have_is_refused() {
    let mut scene = Scene::new("no-tpm", Target::Tiny).unwrap();
    scene.host.tpm = TpmPolicy::Required;
    let happened = "the host config requires a TPM, but nothing is measured: the machine has no TPM";
    scene.refuses("tpm", happened, |builder| builder).unwrap();
    scene.passed().unwrap();
}
