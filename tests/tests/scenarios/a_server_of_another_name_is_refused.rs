//! The server's certificate is from the right CA, but for another name.

use metalstrap_qemu::Validity;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::Scene;

#[test]
fn a_server_of_another_name_is_refused() {
    let mut scene = Scene::new("other-name", Target::Tiny).unwrap();
    scene.lab.present_certificate(&["DNS:other.test"], Validity::WIDE).unwrap();
    let happened = format!(
        "checking the repository's metadata: fetching {}/metadata/2.root.json: the certificate of repo.test is for \
         other.test, not for repo.test",
        scene.site.repository
    );
    scene.refuses("certificate", &happened, |builder| builder).unwrap();
    scene.passed().unwrap();
}
