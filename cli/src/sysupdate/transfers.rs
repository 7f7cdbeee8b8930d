//! The transfer definitions (sysupdate.d(5)) that an image needs, by which systemd-sysupdate leaves a disk as the installer
//! would: the same labels, UUIDs from the root hash, a UKI that counts its attempts where the installer looks for UKIs.

use metalstrap_release::manifest::Manifest;
use url::Url;

use super::directory;
use super::images::Kind;

/// File names and texts. In the order of their names the partitions get their labels and then the UKI its name.
pub fn definitions(manifest: &Manifest, url: &Url, signed: bool) -> [(&'static str, String); 3] {
    let Manifest { name, architecture, .. } = manifest;
    let label = |version: &str| Manifest { version: version.to_owned(), ..manifest.clone() };
    let (wild, verify) = (label("@v"), if signed { "yes" } else { "no" });
    // A percent sign begins a specifier.
    let path = format!("{}/{}", url.as_str().trim_end_matches('/'), directory(name)).replace('%', "%%");
    let definition = |kind: Kind, target: String| {
        let pattern = kind.named(name, "@v", architecture, "@u");
        format!(
            "# As `metalstrap publish` wrote it, for /usr/lib/sysupdate.d of the image.\n\
             [Transfer]\nProtectVersion=%A\nVerify={verify}\n\n\
             [Source]\nType=url-file\nPath={path}\nMatchPattern={pattern}\n\n[Target]\n{target}"
        )
    };
    let partition = |label: String, designator: &str| {
        format!("Type=partition\nPath=auto\nMatchPattern={label}\nMatchPartitionType={designator}\nReadOnly=yes\n")
    };
    let uki = format!(
        "Type=regular-file\nPath=/EFI/Linux\nPathRelativeTo=esp\n\
         MatchPattern={name}_@v+@l-@d.efi {name}_@v+@l.efi {name}_@v.efi\n\
         TriesLeft=3\nTriesDone=0\nInstancesMax=2\n"
    );
    let verity = definition(Kind::RootVerity, partition(wild.root_verity_label(), "root-verity"));
    let root = definition(Kind::Root, partition(wild.root_label(), "root"));
    [("10-root-verity.transfer", verity), ("20-root.transfer", root), ("30-uki.transfer", definition(Kind::Uki, uki))]
}
