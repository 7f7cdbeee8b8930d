//! Payloads that are damaged on their way: one bit, or the end of them.

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Manifest, Payload};
use uuid::Uuid;

use super::published::{good, loader, payload_path, root_image, uki};
use super::trial::{Trial, refused};
use crate::converge::testing::{SALT, UUID, tree_over};
use crate::esp;
use crate::failure::Code;

/// The step in whose error each payload is named.
const TREE: &str = "writing the hash tree: ";
const ROOT: &str = "writing the root file system: ";
const ESP: &str = "writing boot loader and UKI: ";

/// Flips a bit of byte `at` of a payload's content where it lies in the payload: random bytes are stored as they are.
fn flip(bytes: &mut [u8], content: &[u8], at: usize) {
    let here = |start: usize| bytes[start..].starts_with(&content[at..at + 24]);
    let found: Vec<usize> = (0..bytes.len()).filter(|start| here(*start)).collect();
    assert_eq!(found.len(), 1, "the bytes at {at} of the content");
    bytes[found[0]] ^= 0x10;
}

/// Digests of the 4096 bytes around byte `at` with its bit flipped, and as it is.
fn digests(content: &[u8], at: usize) -> [Digest; 2] {
    let start = at / 4096 * 4096;
    let mut block = content[start..content.len().min(start + 4096)].to_vec();
    block.resize(4096, 0);
    let right = Digest::salted(&SALT, &block);
    block[at - start] ^= 0x10;
    [Digest::salted(&SALT, &block), right]
}

fn artifacts(manifest: &Manifest) -> [(&'static str, &Payload, Vec<u8>); 3] {
    let root = &manifest.filesystems[0].data;
    [(ROOT, root, root_image()), (ESP, &manifest.boot.uki.data, uki()), (ESP, &manifest.boot.loader.data, loader())]
}

#[tokio::test]
async fn a_flipped_bit_in_the_content_of_root_uki_or_loader_is_refused() {
    let published = good();
    for (step, payload, content) in artifacts(&published.manifest) {
        for at in [5, content.len() / 2, content.len() - 24] {
            let changed = published.clone().with_payload(payload, |bytes| flip(bytes, &content, at));
            let [found, right] = digests(&content, at);
            let (path, block) = (payload_path(payload), at / 4096);
            let text = format!(
                "{step}{path} from REPOSITORY is corrupt at byte {} of its content: block {block} has digest {found}, \
                 but the hash tree says {right}",
                block * 4096
            );
            Trial::of(&changed).run().await.after_the_plan(Code::Corrupt, &text);
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_hash_tree_is_refused() {
    let published = good();
    let (root, boot) = (&published.manifest.filesystems[0], &published.manifest.boot);
    for (step, payload, content) in [
        (TREE, &root.hash_tree, root_image()),
        (&format!("{ESP}fetching the UKI's hash tree: "), &boot.uki.hash_tree, uki()),
        (&format!("{ESP}fetching the boot loader's hash tree: "), &boot.loader.hash_tree, loader()),
    ] {
        let mut padded = content.clone();
        padded.resize(content.len().next_multiple_of(4096), 0);
        let (_, tree) = tree_over(&padded);
        // In the top block and in the last one: of small files they are the same.
        for at in [4096 + 64, tree.len() - 4096 + 32] {
            let changed = published.clone().with_payload(payload, |bytes| flip(bytes, &tree, at));
            let [found, right] = digests(&tree, at);
            let (path, block) = (payload_path(payload), at / 4096);
            let above = if block == 1 { "root hash" } else { "block above" };
            let text = format!(
                "{step}{path} from REPOSITORY is corrupt at byte {} of its content: hash tree block {block} has digest \
                 {found}, but the {above} says {right}",
                block * 4096
            );
            Trial::of(&changed).run().await.after_the_plan(Code::Corrupt, &text);
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_frames_head_is_refused() {
    let published = good();
    for (step, payload, _) in artifacts(&published.manifest) {
        let path = payload_path(payload);
        for (at, problem) in [
            (0, "is no zstd frame: Unknown frame descriptor"),
            (5, "says 65552 bytes of content, not 65536"),
            (7, "is no zstd frame: Src size is incorrect"),
        ] {
            let changed = published.clone().with_payload(payload, |bytes| bytes[at] ^= 0x10);
            let text = format!("{step}{path} from REPOSITORY is corrupt: the frame at 0 of the payload {problem}");
            Trial::of(&changed).run().await.after_the_plan(Code::Corrupt, &text);
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_that_means_nothing_changes_nothing() {
    // Bit 4 of a frame's descriptor is unused (RFC 8878 section 3.1.1.1.1.3).
    let published = good();
    let payload = published.manifest.filesystems[0].data.clone();
    let changed = published.with_payload(&payload, |bytes| bytes[4] ^= 0x10);
    Trial::of(&changed).run().await.installed();
}

#[tokio::test]
async fn a_truncated_payload_is_refused() {
    let published = good();
    for (step, payload, _) in artifacts(&published.manifest) {
        let path = payload_path(payload);
        let table = payload.seek_table_size;
        // Without its last byte, without its seek table, and in the middle of its frames.
        for (left, missing) in
            [(payload.size - 1, 1), (payload.size - table, table), (payload.size / 2, table), (0, table)]
        {
            let changed =
                published.clone().with_payload(payload, |bytes| bytes.truncate(usize::try_from(left).unwrap()));
            let text = format!("{step}fetching REPOSITORY/{path}: it ends {missing} bytes too early");
            Trial::of(&changed).run().await.after_the_plan(Code::Repository, &text);
        }
    }
}

#[tokio::test]
async fn a_payload_that_is_not_there_is_refused() {
    let published = good();
    for (step, payload, _) in artifacts(&published.manifest) {
        let mut changed = published.clone();
        let path = payload_path(payload);
        changed.files.remove(&path);
        let text = format!("{step}fetching REPOSITORY/{path}: opening it: No such file or directory (os error 2)");
        Trial::of(&changed).run().await.after_the_plan(Code::Repository, &text);
    }
}

#[tokio::test]
async fn another_payload_under_the_name_is_refused() {
    let published = good();
    let root = published.manifest.filesystems[0].data.clone();
    let other = published.files[&payload_path(&published.manifest.boot.uki.data)].clone();
    let changed = published.with_payload(&root, |bytes| *bytes = other);
    let (path, missing) = (payload_path(&root), root.seek_table_size);
    let text = format!("{ROOT}fetching REPOSITORY/{path}: it ends {missing} bytes too early");
    Trial::of(&changed).run().await.after_the_plan(Code::Repository, &text);
}

#[tokio::test]
async fn a_boot_file_that_its_hash_tree_vouches_for_must_have_its_digest_too() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Vec<u8>, Change); 2] = [
        ("EFI/Linux/tiny_1+3.efi", uki(), |manifest| manifest.boot.uki.sha256 = Digest::of(b"other")),
        (esp::FALLBACK_LOADER, loader(), |manifest| manifest.boot.loader.sha256 = Digest::of(b"other")),
    ];
    for (path, content, change) in changes {
        let outcome = refused(|published| published.with_changed_manifest(change)).await;
        let [found, said] = [content.as_slice(), b"other"].map(Digest::of);
        let text = format!("{ESP}{path} has SHA-256 {found}, but the manifest says {said}");
        outcome.after_the_plan(Code::Corrupt, &text);
    }
}

#[tokio::test]
async fn a_hash_tree_of_another_root_hash_or_salt_is_refused() {
    let (root, true_hash) = (good().manifest.filesystems[0].clone(), good().manifest.filesystems[0].root_hash);
    let corrupt = format!("{TREE}{} from REPOSITORY is corrupt at byte", payload_path(&root.hash_tree));
    let other = Digest::of(b"other");
    let outcome = refused(|published| {
        published.with_changed_manifest(|manifest| {
            manifest.filesystems[0].root_hash = other;
            manifest.boot.cmdline = format!("roothash={other}");
        })
    });
    let text = format!(
        "{corrupt} 4096 of its content: hash tree block 1 has digest {true_hash}, but the root hash says {other}"
    );
    outcome.await.after_the_plan(Code::Corrupt, &text);
    let outcome =
        refused(|published| published.with_changed_manifest(|manifest| manifest.filesystems[0].salt.0[0] ^= 1));
    let sevens = "07".repeat(31);
    let text = format!("{corrupt} 0 of its content: the hash tree's superblock has salt 07{sevens}, not 06{sevens}");
    outcome.await.after_the_plan(Code::Corrupt, &text);
    // No hash vouches for the UUID: the manifest does.
    let nil = Uuid::nil();
    let outcome =
        refused(|published| published.with_changed_manifest(|manifest| manifest.filesystems[0].hash_tree_uuid = nil));
    let text = format!("{corrupt} 0 of its content: the hash tree's superblock has UUID {UUID}, not {nil}");
    outcome.await.after_the_plan(Code::Corrupt, &text);
}
