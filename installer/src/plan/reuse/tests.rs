use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Erase, Existing, Host, Mode};
use uuid::Uuid;

use super::super::tests::{GIB, MIB, disk, holding, host, manifest, plan};
use super::super::{Becomes, Wipe};
use super::*;
use crate::boot_files::BootFiles;
use crate::erase::MARK;
use crate::failure::{Code, code_of};

/// A release of the same OS.
fn release(version: &str) -> Manifest {
    let mut release = manifest();
    release.version = version.to_owned();
    release.filesystems.iter_mut().for_each(|root| root.root_hash = Digest::of(version.as_bytes()));
    release
}

/// A disk with this table, and UKIs of 8 MiB with these names.
fn with_ukis(table: &Table, names: &[&str]) -> PlanDisk {
    let uki = |name: &&str| Uki { name: (*name).to_owned(), size: 8 * MIB, root_hash: None, taken: 8 * MIB };
    let ukis = names.iter().map(uki).collect();
    let files = BootFiles { ukis, free: 100 * MIB, cluster: 4096, ..BootFiles::default() };
    let Contents::Gpt { copies, table, holds, beside, others, .. } = holding(table.clone()) else { panic!() };
    disk(GIB, 512, Contents::Gpt { copies, table, holds, beside, others, esp: EspContents::Volume(files) })
}

fn keep(on: &PlanDisk, manifest: &Manifest) -> Plan {
    Plan::new(on, manifest, &host(Existing::Keep)).unwrap()
}

fn wipe(on: &PlanDisk, manifest: &Manifest) -> Plan {
    let host = Host { intent: Some("again".to_owned()), ..host(Existing::Wipe) };
    Plan::new(on, manifest, &host).unwrap()
}

fn label(plan: &Plan, slot: char) -> String {
    plan.partition(Role::Root { slot }).unwrap().label.clone()
}

/// A disk on which these releases have been installed one after the other.
fn installed(versions: &[&str]) -> Table {
    let mut table: Option<Table> = None;
    let mut names: Vec<String> = Vec::new();
    for version in versions {
        let on = match &table {
            None => disk(GIB, 512, Contents::Blank),
            Some(table) => with_ukis(table, &names.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        let plan = keep(&on, &release(version));
        names.retain(|name| !plan.names.removed.contains(&format!("EFI/Linux/{name}")));
        names.push(format!("debian_{version}.efi"));
        table = Some(plan.table());
    }
    table.unwrap()
}

#[test]
fn the_next_release_goes_into_the_other_slot() {
    let first = installed(&["13.1"]);
    let second = keep(&with_ukis(&first, &["debian_13.1.efi"]), &release("13.2"));
    assert_eq!(second.existing, Becomes::Updated { from: "_empty".to_owned() });
    assert_eq!((second.target, second.fallback.as_deref()), ('b', Some("debian_13.1")));
    assert_eq!((label(&second, 'a'), label(&second, 'b')), ("debian_13.1".to_owned(), "debian_13.2".to_owned()));
    assert_eq!((second.names, second.wipes, second.leftovers), (Names::default(), vec![], vec![]));
    assert_eq!(second.disk_guid, first.disk_guid);
    let seeds: Vec<_> = second.seeds.iter().map(|seed| (seed.what.as_str(), seed.holds)).collect();
    assert_eq!(seeds, [("esp", Holds::BootFiles), ("root-a", Holds::Root)]);
    let protected: Vec<_> = second.protects.iter().map(|it| it.purpose.as_str()).collect();
    assert_eq!(protected, ["root-verity-a", "root-a"]);

    // The third one goes where the first was, whose UKI is unnamed before.
    let table = installed(&["13.1", "13.2"]);
    let third = keep(&with_ukis(&table, &["debian_13.1.efi", "debian_13.2+3.efi"]), &release("13.10"));
    assert_eq!(third.existing, Becomes::Updated { from: "debian_13.1".to_owned() });
    assert_eq!((third.target, third.fallback.as_deref()), ('a', Some("debian_13.2")));
    let removed = vec!["EFI/Linux/debian_13.1.efi".to_owned()];
    assert_eq!(third.names, Names { removed, renamed: vec![] });
}

#[test]
fn a_slot_that_is_no_good_goes_before_an_older_one() {
    let table = installed(&["13.1", "13.2"]);
    let next = |names: &[&str]| {
        let plan = keep(&with_ukis(&table, names), &release("13.3"));
        (plan.target, plan.fallback)
    };
    let (old, new) = (Some("debian_13.1".to_owned()), Some("debian_13.2".to_owned()));
    // The newer one has failed, or has no UKI: an interrupted run.
    assert_eq!(next(&["debian_13.1.efi", "debian_13.2+0-3.efi"]), ('b', old.clone()));
    assert_eq!(next(&["debian_13.1.efi"]), ('b', old.clone()));
    assert_eq!(next(&["debian_13.1+0-3.efi", "debian_13.2+0-3.efi"]).1, None);
    // Ranked behind the older one, which has failed then.
    assert_eq!(next(&["debian_13.1+0-3.efi", "debian_13.2+0.efi"]), ('a', new.clone()));
    // It was started twice and has not said that it works.
    assert_eq!(next(&["debian_13.1.efi", "DEBIAN_13.2+1-2.EFI"]), ('b', Some("debian_13.1".to_owned())));
    assert_eq!(next(&["debian_13.1.efi", "debian_13.2+3.efi"]), ('a', new.clone()));
    assert_eq!(next(&["debian_13.2.efi"]), ('a', new));
    assert_eq!(next(&[]), ('a', None));
    // systemd-sysupdate has placed it, and the power was cut soon after.
    let mut on = with_ukis(&table, &["debian_13.1.efi", "debian_13.2+3-0.efi"]);
    let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut on.contents else { panic!() };
    files.ukis[1].size = 0;
    let plan = keep(&on, &release("13.3"));
    assert_eq!((plan.target, plan.fallback), ('b', Some("debian_13.1".to_owned())));
    assert_eq!(plan.names.removed, ["EFI/Linux/debian_13.2+3-0.efi"]);
}

#[test]
fn what_is_in_a_slot_already_is_kept_there() {
    let table = installed(&["13.1", "13.2"]);
    let on = with_ukis(&table, &["debian_13.1.efi", "debian_13.2.efi"]);
    let newest = keep(&on, &release("13.2"));
    assert_eq!((&newest.existing, newest.target, &newest.names), (&Becomes::Kept, 'b', &Names::default()));
    // The older one is to be started from now on: the newer one has no attempts left, and is the fallback.
    let older = keep(&on, &release("13.1"));
    assert_eq!((&older.existing, older.target, older.fallback.as_deref()), (&Becomes::Kept, 'a', Some("debian_13.2")));
    let behind = vec![("EFI/Linux/debian_13.2.efi".to_owned(), "debian_13.2+0.efi".to_owned())];
    assert_eq!(older.names, Names { removed: vec![], renamed: behind });
    let done = with_ukis(&table, &["debian_13.1.efi", "debian_13.2+0.efi"]);
    assert_eq!(keep(&done, &release("13.1")).names, Names::default());
    // And the newer one again: it has its attempts back.
    let again = vec![("EFI/Linux/debian_13.2+0.efi".to_owned(), "debian_13.2+3.efi".to_owned())];
    assert_eq!(keep(&done, &release("13.2")).names, Names { removed: vec![], renamed: again });
}

#[test]
fn a_version_that_was_made_anew_goes_where_it_was() {
    let table = installed(&["13.1", "13.2"]);
    let mut anew = release("13.2");
    anew.filesystems.iter_mut().for_each(|root| root.root_hash = Digest::of(b"anew"));
    let plan = keep(&with_ukis(&table, &["debian_13.1.efi", "debian_13.2.efi"]), &anew);
    assert_eq!((plan.target, plan.fallback.as_deref()), ('b', Some("debian_13.1")));
    assert_eq!(plan.names.removed, ["EFI/Linux/debian_13.2.efi"]);
    // The other one, which was ranked behind it, starts meanwhile.
    let mut anew = release("13.1");
    anew.filesystems.iter_mut().for_each(|root| root.root_hash = Digest::of(b"anew"));
    let plan = keep(&with_ukis(&table, &["debian_13.1.efi", "debian_13.2+0.efi"]), &anew);
    assert_eq!((plan.target, plan.fallback.as_deref()), ('a', Some("debian_13.2")));
    assert_eq!(plan.names, Names { removed: vec!["EFI/Linux/debian_13.1.efi".to_owned()], renamed: vec![] });
}

#[test]
fn ukis_belong_to_the_slot_whose_root_hash_they_name() {
    let table = installed(&["13.1", "13.2"]);
    let next = |hashes: [&str; 3], release: &Manifest| {
        let names = ["debian_13.0.efi", "debian_13.1.efi", "debian_13.2.efi"];
        let mut on = with_ukis(&table, &names);
        let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut on.contents else { panic!() };
        for (uki, hash) in files.ukis.iter_mut().zip(hashes) {
            uki.root_hash = Some(Digest::of(hash.as_bytes()));
        }
        keep(&on, release)
    };
    let removed = |plan: &Plan| plan.names.removed.clone();
    // 13.0 starts the same root as 13.1: both go with its slot. Nothing on the disk has the root of the other 13.0.
    let third = next(["13.1", "13.1", "13.2"], &release("13.3"));
    assert_eq!((third.target, third.fallback.as_deref()), ('a', Some("debian_13.2")));
    assert_eq!(removed(&third), ["EFI/Linux/debian_13.0.efi", "EFI/Linux/debian_13.1.efi"]);
    let kept = next(["13.0", "13.1", "13.2"], &release("13.2"));
    assert_eq!((&kept.existing, removed(&kept)), (&Becomes::Kept, vec!["EFI/Linux/debian_13.0.efi".to_owned()]));
    // Names count for nothing: the one that is called 13.2 starts 13.1, so the slot of 13.2 is the one without a UKI.
    let third = next(["13.1", "13.1", "13.1"], &release("13.3"));
    assert_eq!((third.target, third.fallback.as_deref(), removed(&third)), ('b', Some("debian_13.1"), vec![]));
    // What is not called after this OS is not ours to remove.
    let mut other = release("13.3");
    other.name = "other".to_owned();
    assert_eq!(removed(&next(["13.0", "13.1", "13.2"], &other)), ["EFI/Linux/debian_13.1.efi"]);
}

#[test]
fn where_nothing_else_could_start_the_boot_loader_goes_first_of_all() {
    let single = |version: &str| {
        let mut release = release(version);
        release.layout.slots = 1;
        release
    };
    let table = keep(&disk(GIB, 512, Contents::Blank), &single("13.1")).table();
    let removed = |names: &[&str]| keep(&with_ukis(&table, names), &single("13.2")).names.removed;
    let loaders = [esp::FALLBACK_LOADER, esp::LOADER];
    assert_eq!(removed(&["debian_13.1.efi"]), [loaders[0], loaders[1], "EFI/Linux/debian_13.1.efi"]);
    assert_eq!(removed(&["debian_13.1.efi", "other_1.efi"]), ["EFI/Linux/debian_13.1.efi"]);
    assert_eq!(removed(&["other_1+0.efi"]), Vec::<String>::new());
    // Two slots, of which neither starts any more.
    let failed = with_ukis(&installed(&["13.1", "13.2"]), &["debian_13.1+0-3.efi", "debian_13.2+0-3.efi"]);
    let removed = keep(&failed, &release("13.3")).names.removed;
    assert_eq!(removed, [loaders[0], loaders[1], "EFI/Linux/debian_13.1+0-3.efi"]);
}

#[test]
fn an_older_release_is_started_before_what_is_there() {
    let table = installed(&["13.2"]);
    let down = keep(&with_ukis(&table, &["debian_13.2.efi", "other_1.efi", "debian_1.efi"]), &release("13.1"));
    assert_eq!((down.target, down.fallback.as_deref()), ('b', Some("debian_13.2")));
    let behind = |old: &str, new: &str| (format!("EFI/Linux/{old}"), new.to_owned());
    assert_eq!(
        down.names.renamed,
        [behind("debian_13.2.efi", "debian_13.2+0.efi"), behind("other_1.efi", "other_1+0.efi")]
    );
}

#[test]
fn a_slot_that_systemd_sysupdate_has_filled_is_one_of_ours() {
    let mut table = installed(&["13.1"]);
    for entry in table.partitions.iter_mut().skip(3) {
        entry.uuid = Uuid::from_u128(u128::from(entry.index));
        entry.label = "debian_13.2".to_owned();
        entry.attributes = 1 << 60;
    }
    let on = with_ukis(&table, &["debian_13.1.efi", "debian_13.2+3.efi"]);
    let plan = keep(&on, &release("13.1"));
    assert_eq!((&plan.existing, plan.target, plan.table()), (&Becomes::Kept, 'a', table.clone()));
    let plan = keep(&on, &release("13.3"));
    assert_eq!((plan.target, plan.fallback.as_deref()), ('a', Some("debian_13.2")));
    assert_eq!(plan.partition(Role::Root { slot: 'b' }).unwrap(), &table.partitions[4]);
}

#[test]
fn an_intent_happens_once() {
    let table = wipe(&disk(GIB, 512, Contents::Blank), &manifest()).table();
    let by = |on: &PlanDisk, intent: &str, manifest: &Manifest| {
        let host = Host { intent: Some(intent.to_owned()), ..host(Existing::Wipe) };
        Plan::new(on, manifest, &host).unwrap()
    };
    let on = with_ukis(&table, &["debian_13.1.efi"]);
    assert_eq!(by(&on, "again", &manifest()).existing, Becomes::Kept);
    assert!(matches!(by(&on, "again", &release("13.2")).existing, Becomes::Updated { .. }));
    let other = by(&on, "other", &manifest());
    assert!(matches!(other.existing, Becomes::Replaced { .. }));
    assert_eq!((other.target, other.intents), ('a', vec!["other".to_owned()]));
    // The ESP knows those before.
    let noting = |table: Table, intents: &[String]| {
        let mut contents = holding(table);
        let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut contents else { panic!() };
        files.intents = intents.to_vec();
        disk(GIB, 512, contents)
    };
    let contents = |table: Table| noting(table, &["first".to_owned(), "test".to_owned()]);
    assert_eq!(by(&contents(table.clone()), "first", &manifest()).existing, Becomes::Kept);
    assert_eq!(by(&contents(table.clone()), "third", &manifest()).intents, ["first", "test", "third"]);
    let mut foreign = table;
    foreign.partitions[0].uuid = Uuid::from_u128(9);
    // A disk that is not known any more, but says that it has happened: it is left alone.
    let foreign = contents(foreign);
    let host = |intent: &str| Host { intent: Some(intent.to_owned()), ..host(Existing::Wipe) };
    let error = Plan::new(&foreign, &manifest(), &host("first")).unwrap_err();
    let text =
        "on which the intent \"first\" has happened, but not as debian 13.1 wants it: only a new intent wipes it";
    assert!(code_of(&error) == Code::DiskNotBlank && format!("{error:#}").ends_with(text), "{error:#}");
    let plan = by(&foreign, "third", &manifest());
    assert!(matches!(plan.existing, Becomes::Replaced { .. }), "{:?}", plan.existing);
    // What has happened stays known, so that going back to the first one does not wipe it again.
    assert_eq!(plan.intents, ["first", "test", "third"]);
    let again = by(&noting(plan.table(), &plan.intents), "first", &manifest());
    assert_eq!(again.existing, Becomes::Kept);
}

/// More has happened than a disk is told from now on. What the host config still wants is not among what is forgotten.
#[test]
fn an_intent_happens_once_also_where_many_have() {
    let table = installed(&["13.1"]);
    let mut on = with_ukis(&table, &["debian_13.1.efi"]);
    on.remembered = (0..32).map(|number| format!("a{number}")).collect();
    let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut on.contents else { panic!() };
    files.intents = (0..32).map(|number| format!("b{number}")).collect();
    for intent in ["a0", "b31"] {
        let host = Host { intent: Some(intent.to_owned()), ..host(Existing::Wipe) };
        let plan = Plan::new(&on, &release("13.1"), &host).unwrap();
        assert_eq!((plan.existing, plan.intents.len(), plan.intents[31].as_str()), (Becomes::Kept, 32, intent));
    }
}

/// What the machine remembers holds where the disk has lost it: to a wipe that was cut, or to a person.
#[test]
fn an_intent_happens_once_also_where_only_the_machine_knows() {
    let host = |intent: &str| Host { intent: Some(intent.to_owned()), ..host(Existing::Wipe) };
    let remembering = |on: PlanDisk| PlanDisk { remembered: vec!["first".to_owned()], ..on };
    let foreign = || Contents::Foreign { what: vec!["LVM"], areas: Vec::new() };
    let on = remembering(disk(GIB, 512, foreign()));
    let error = Plan::new(&on, &manifest(), &host("first")).unwrap_err();
    let text = "disk vda (serial X) holds LVM, on which the intent \"first\" has happened, but not as debian 13.1 wants it: only a \
                new intent wipes it";
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::DiskNotBlank, text.to_owned()));
    let second = Plan::new(&on, &manifest(), &host("second")).unwrap();
    assert!(matches!(second.existing, Becomes::Wiped { .. }));
    assert_eq!(second.intents, ["first", "second"], "the next one is told on the disk, with the one before");
    // There is nothing that could go.
    let blank = Plan::new(&remembering(disk(GIB, 512, Contents::Blank)), &manifest(), &host("first")).unwrap();
    assert_eq!((blank.existing, blank.intents), (Becomes::Blank, vec!["first".to_owned()]));
    let erased = ["first", "second"].map(|intent| {
        let erasing = Host { erase: Erase::Zeroes, ..host(intent) };
        Plan::new(&remembering(disk(GIB, 512, Contents::Blank)), &manifest(), &erasing).unwrap().erase
    });
    assert_eq!(erased, [Erase::None, Erase::Zeroes]);
    // A disk whose ESP has lost the file.
    let on = remembering(with_ukis(&second.table(), &["debian_13.1.efi"]));
    let kept = Plan::new(&on, &manifest(), &host("first")).unwrap();
    assert_eq!((kept.existing, kept.intents), (Becomes::Kept, vec!["first".to_owned()]));
}

#[test]
fn a_repair_notes_no_intent_and_renames_nothing() {
    let table = installed(&["13.1", "13.2"]);
    // What the machine remembers the disk has lost, and the other release would start before.
    let mut on = with_ukis(&table, &["debian_13.1.efi", "debian_13.2.efi"]);
    on.remembered = vec!["first".to_owned()];
    let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut on.contents else { panic!() };
    files.intents = vec!["second".to_owned()];
    let install = Plan::new(&on, &release("13.1"), &host(Existing::Keep)).unwrap();
    assert_eq!((install.intents.len(), install.names.renamed.len()), (2, 1));
    let repair = Host { mode: Mode::Repair, ..host(Existing::Wipe) };
    let plan = Plan::new(&on, &release("13.1"), &repair).unwrap();
    let nothing = (Becomes::Kept, vec!["second".to_owned()], Names::default());
    assert_eq!((plan.existing, plan.intents, plan.names), nothing);
}

#[test]
fn where_only_a_blank_disk_is_wanted_nothing_of_another_release_is_renamed() {
    let table = installed(&["13.1", "13.2"]);
    let on = with_ukis(&table, &["debian_13.1.efi", "debian_13.2+3.efi"]);
    let error = Plan::new(&on, &release("13.1"), &host(Existing::Refuse)).unwrap_err();
    let text = format!("{error:#}");
    assert!(code_of(&error) == Code::DiskNotBlank && text.ends_with("says \"existing\": \"refuse\""), "{text}");
    let newest = Plan::new(&on, &release("13.2"), &host(Existing::Refuse)).unwrap();
    assert_eq!((newest.existing, newest.names), (Becomes::Kept, Names::default()));
}

#[test]
fn what_is_erased_is_wiped_as_a_whole_and_once_for_each_intent() {
    let table = wipe(&disk(GIB, 512, Contents::Blank), &manifest()).table();
    let on = with_ukis(&table, &["debian_13.1.efi"]);
    let by = |intent: &str, manifest: &Manifest| {
        let host = Host { intent: Some(intent.to_owned()), erase: Erase::Zeroes, ..host(Existing::Wipe) };
        Plan::new(&on, manifest, &host).unwrap()
    };
    let noted = |plan: &Plan| plan.writes.iter().any(|write| write.area == MARK);
    for done in [by("again", &manifest()), by("again", &release("13.2"))] {
        assert!(done.existing.stays() && done.erase == Erase::None && !noted(&done), "{:?}", done.existing);
    }
    // The slots are good for nothing any more, so the next run, which may find a blank disk, takes the same one.
    for new in [by("other", &manifest()), by("other", &release("13.2"))] {
        assert!(matches!(new.existing, Becomes::Wiped { .. }), "{:?}", new.existing);
        assert!(new.erase == Erase::Zeroes && noted(&new));
        assert_eq!((new.target, new.seeds, new.leftovers), (FIRST_SLOT, vec![], vec![]));
    }
}

#[test]
fn an_esp_that_cannot_be_kept_or_has_no_room_is_refused() {
    let table = installed(&["13.1"]);
    let refused = |esp: EspContents| {
        let Contents::Gpt { copies, table, holds, beside, others, .. } = holding(table.clone()) else { panic!() };
        let disk = disk(GIB, 512, Contents::Gpt { copies, table, holds, beside, others, esp });
        let error = Plan::new(&disk, &release("13.2"), &host(Existing::Keep)).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    let problem = "the EFI system partition holds another FAT than FAT32".to_owned();
    let text = "disk vda (serial X): the EFI system partition holds another FAT than FAT32".to_owned();
    assert_eq!(refused(EspContents::Unusable { problem }), (Code::Esp, text));
    let uki = Uki { name: "debian_13.1.efi".to_owned(), size: 8 * MIB, root_hash: None, taken: 8 * MIB };
    let files = BootFiles { ukis: vec![uki], free: 8 * MIB + 4096, cluster: 4096, ..BootFiles::default() };
    let text = "disk vda (serial X): the EFI system partition has 8392704 bytes free, but the boot files need 8396800; it has \
                [\"EFI/Linux/debian_13.1.efi\"]";
    assert_eq!(refused(EspContents::Volume(files)), (Code::Esp, text.to_owned()));
    let text = "disk vda (serial X): the EFI system partition has no file system that can be read, but \"debian_13.1\" starts \
                from it";
    assert_eq!(refused(EspContents::Absent), (Code::Esp, text.to_owned()));
}

/// As a run leaves the disk that is cut between the partition table and the ESP.
#[test]
fn an_esp_that_is_not_made_yet_is_made() {
    let cut = keep(&disk(GIB, 512, Contents::Blank), &manifest()).table();
    let Contents::Gpt { copies, table, holds, beside, others, .. } = holding(cut) else { panic!() };
    let contents = |esp| {
        let (table, holds, beside, others) = (table.clone(), holds.clone(), beside.clone(), others.clone());
        disk(GIB, 512, Contents::Gpt { copies, table, holds, beside, others, esp })
    };
    assert_eq!(keep(&contents(EspContents::Absent), &manifest()).existing, Becomes::Kept);
    assert_eq!(keep(&contents(EspContents::Unmade), &manifest()).existing, Becomes::Kept);
    // Another release is wanted by now: nobody could have started the one that is there.
    let next = keep(&contents(EspContents::Unmade), &release("13.2"));
    assert_eq!(next.existing, Becomes::Updated { from: "_empty".to_owned() });
    assert_eq!((next.target, next.fallback, next.names), ('b', None, Names::default()));
}

#[test]
fn a_disk_that_is_wiped_gets_the_release_into_the_empty_slot_and_comes_from_the_full_one() {
    let first = plan(GIB, 512, Contents::Blank);
    let on = |table: Table| disk(GIB, 512, holding(table));
    let second = wipe(&on(first.table()), &release("13.2"));
    assert!(matches!(second.existing, Becomes::Replaced { .. }));
    assert_eq!(second.target, 'b');
    assert_eq!((label(&second, 'a'), label(&second, 'b')), ("_empty".to_owned(), "debian_13.2".to_owned()));
    let old = first.partition(Role::Root { slot: 'a' }).unwrap();
    let seeds: Vec<_> = second.seeds.iter().map(|seed| (seed.what.as_str(), seed.holds, seed.area.start)).collect();
    assert_eq!(seeds, [("esp", Holds::BootFiles, 1 << 20), ("root-a", Holds::Root, old.start)]);
    // Neither the seeds nor the old table go before the release is in its slot.
    let kept = [old.start..old.start + old.size, 0..1 << 20, GIB - (1 << 20)..GIB];
    for area in second.wipes.iter().flat_map(|step: &Wipe| &step.ranges).map(Area::range) {
        assert!(kept.iter().all(|kept| area.end <= kept.start || kept.end <= area.start), "{area:?}");
    }
    assert!(second.wipes.iter().any(|step| step.what == "the old EFI system partition"));
    let after: Vec<u64> = second.leftovers.iter().flat_map(|step| &step.ranges).map(|area| area.start).collect();
    assert!(after.contains(&old.start));

    // The same again while it is interrupted, kept when it is done.
    assert_eq!(wipe(&on(first.table()), &release("13.2")), second);
    assert_eq!(wipe(&on(second.table()), &release("13.2")).existing, Becomes::Kept);
}

#[test]
fn a_disk_with_other_partitions_is_wiped_as_a_whole() {
    let mut table = plan(GIB, 512, Contents::Blank).table();
    table.partitions.iter_mut().skip(2).take(1).for_each(|entry| entry.size -= 1 << 20);
    let plan = wipe(&disk(GIB, 512, holding(table.clone())), &release("13.2"));
    assert!(matches!(plan.existing, Becomes::Wiped { .. }));
    assert_eq!((plan.target, plan.seeds, plan.leftovers), ('a', vec![], vec![]));
    table.partitions.iter_mut().for_each(|entry| entry.type_guid = Uuid::from_u128(7));
    assert!(matches!(wipe(&disk(GIB, 512, holding(table)), &release("13.2")).existing, Becomes::Wiped { .. }));
}
