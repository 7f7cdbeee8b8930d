//! Signatures have their time: a machine whose clock says that it is over installs nothing.

use metalstrap_tests::release::Target;
use metalstrap_tests::scene::Scene;

#[test]
fn expired_metadata_is_refused() {
    let mut scene = Scene::new("expired", Target::Tiny).unwrap();
    // Signed anew each time that a host config is added; `refuses` adds none that is not there already.
    scene.published.add_default_host(&scene.host).unwrap();
    let timestamp = std::fs::read(scene.published.repository.join("metadata/timestamp.json")).unwrap();
    let timestamp: serde_json::Value = serde_json::from_slice(&timestamp).unwrap();
    let expires = timestamp["signed"]["expires"].as_str().unwrap();
    let happened = format!(
        "checking the repository's metadata: {}: the repository's timestamp metadata expired at {expires}, and the clock \
         shows 2031-01-01T00:",
        scene.site.repository
    );
    // Within the ten years after the image was built: a later clock would count as dead (docs/time.md).
    scene.refuses("metadata-expired", &happened, |builder| builder.clock("2031-01-01T00:00:00")).unwrap();
    scene.passed().unwrap();
}
