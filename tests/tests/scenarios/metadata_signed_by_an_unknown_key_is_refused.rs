//! The repository is not the one whose root the netboot image holds: whoever signed it is a stranger.

use metalstrap_tests::operator::metalstrap;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::Scene;

#[test]
fn metadata_signed_by_an_unknown_key_is_refused() {
    let mut scene = Scene::new("unknown-key", Target::Tiny).unwrap();
    let other = scene.run.path().join("other-keys");
    metalstrap(&["keygen".as_ref(), "--keys".as_ref(), other.as_os_str()]).unwrap();
    scene.site.root = serde_json::from_slice(&std::fs::read(other.join("root.json")).unwrap()).unwrap();
    let happened = format!(
        "checking the repository's metadata: {}: metadata/timestamp.json has 0 valid signatures by keys that are trusted \
         with it, but needs 1",
        scene.site.repository
    );
    scene.refuses("metadata", &happened, |builder| builder).unwrap();
    scene.passed().unwrap();
}
