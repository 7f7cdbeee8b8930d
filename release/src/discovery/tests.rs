use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A site config that its own checks take, with `more` in it.
fn site(more: &Value) -> Site {
    let mut site = json!({
        "format": 1,
        "root": crate::site::test_root(),
        "ca": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "clock_floor": 1_700_000_000,
    });
    let more = more.as_object().unwrap().clone();
    site.as_object_mut().unwrap().extend(more);
    Site::parse(site.to_string().as_bytes()).unwrap()
}

fn word(key: &str, value: &str) -> Word {
    Word { key: key.as_bytes().to_vec(), value: Some(value.as_bytes().to_vec()) }
}

/// What one source's words are refused with, by a site config that leaves everything out.
fn refusals(source: Source, words: &[Word]) -> Vec<String> {
    Discovery::new(site(&json!({}))).offer(source, words).iter().map(ToString::to_string).collect()
}

/// Setting, value and source, as an event shows them.
fn chosen(discovery: &Discovery) -> Vec<String> {
    let text = |chosen: Chosen| serde_json::to_string(&chosen).unwrap();
    discovery.chosen().into_iter().map(text).collect()
}

const ONE_OF_EACH: [(Setting, &str); 7] = [
    (Setting::Repository, "https://new.test/os"),
    (Setting::Mirrors, "https://m1.test https://m2.test"),
    (Setting::ReportUrl, "https://report.test/x"),
    (Setting::Host, "serial-7XK"),
    (Setting::Connections, "3"),
    (Setting::NetworkTimeout, "30"),
    (Setting::RebootOnFailureAfter, "60"),
];

#[test]
fn the_first_source_wins_and_each_setting_remembers_its_own() {
    let full = json!({"repository": "https://site.test/os", "connections": 4, "reboot_on_failure_after": 9});
    let mut discovery = Discovery::new(site(&full));
    let none: [DiscoveryError; 0] = [];
    let line = [word("mirrors", "https://a.test  https://b.test"), word("reboot_on_failure_after", "never")];
    assert_eq!(discovery.offer(Source::KernelCommandLine, &line), none);
    let smbios = [word("mirrors", "https://c.test"), word("host", "serial-7XK"), word("connections", "2")];
    assert_eq!(discovery.offer(Source::Smbios, &smbios), none);
    assert_eq!(discovery.offer(Source::BootUrl, &[word("repository", "https://boot.test")]), none);
    assert_eq!(discovery.offer(Source::Dhcp, &[word("repository", "https://dhcp.test")]), none);
    let expected = [
        r#"{"setting":"repository","value":"https://site.test/os","source":"site-config"}"#,
        r#"{"setting":"mirrors","value":"https://a.test https://b.test","source":"kernel-command-line"}"#,
        r#"{"setting":"host","value":"serial-7XK","source":"smbios"}"#,
        r#"{"setting":"connections","value":"2","source":"smbios"}"#,
        r#"{"setting":"network_timeout","value":"180","source":"site-config"}"#,
        r#"{"setting":"reboot_on_failure_after","value":"never","source":"kernel-command-line"}"#,
    ];
    assert_eq!(chosen(&discovery), expected);
    let settings = discovery.finish();
    assert_eq!(settings.site.mirrors, ["https://a.test", "https://b.test"]);
    assert_eq!((settings.site.connections, settings.site.reboot_on_failure_after), (2, None));
    assert_eq!(settings.host, Some("serial-7XK".parse().unwrap()));
    assert_eq!(settings.chosen.len(), expected.len());
}

#[test]
fn the_network_fills_a_gap_and_overrules_only_where_it_may() {
    let repository = |more: Value, offers: &[(Source, &str)]| {
        let mut discovery = Discovery::new(site(&more));
        for (source, url) in offers {
            assert_eq!(discovery.offer(*source, &[word("repository", url)]), []);
        }
        let settings = discovery.finish();
        (settings.site.repository, settings.chosen.first().unwrap().source)
    };
    let given = |more: Value| {
        let mut given = json!({"repository": "https://site.test"});
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        given
    };
    let (boot, dhcp) = ((Source::BootUrl, "https://boot.test"), (Source::Dhcp, "https://dhcp.test"));
    for (more, offers, expected) in [
        (json!({}), vec![boot, dhcp], boot),
        (json!({}), vec![dhcp, (Source::Dhcp, "https://other.test")], dhcp),
        (given(json!({})), vec![boot, dhcp], (Source::SiteConfig, "https://site.test")),
        (given(json!({"dhcp_may_set": ["mirrors"]})), vec![boot, dhcp], (Source::SiteConfig, "https://site.test")),
        (given(json!({"dhcp_may_set": ["repository"]})), vec![boot, dhcp], dhcp),
        (given(json!({})), vec![(Source::Smbios, "https://s.test"), dhcp], (Source::Smbios, "https://s.test")),
    ] {
        assert_eq!(repository(more.clone(), &offers), (expected.1.to_owned(), expected.0), "{more} {offers:?}");
    }
}

#[test]
fn a_medium_goes_before_the_site_config_and_behind_what_the_network_may_say() {
    let both =
        json!({"repository": "https://site.test", "mirrors": ["https://site.test"], "dhcp_may_set": ["repository"]});
    let mut discovery = Discovery::new(site(&both));
    let words =
        [word("repository", "https://disc.test"), word("mirrors", "https://disc.test"), word("connections", "2")];
    assert_eq!(discovery.offer_medium("sr0 (Virtual CDROM)", &words), []);
    assert_eq!(discovery.site().repository, "https://disc.test");
    // DHCP is heard later.
    let lease = [word("repository", "https://dhcp.test"), word("mirrors", "https://dhcp.test")];
    assert_eq!(discovery.offer(Source::Dhcp, &lease), []);
    assert_eq!(discovery.offer(Source::Dhcp, &[word("repository", "https://second.test")]), []);
    let expected = [
        r#"{"setting":"repository","value":"https://dhcp.test","source":"dhcp"}"#,
        r#"{"setting":"mirrors","value":"https://disc.test","source":"medium","medium":"sr0 (Virtual CDROM)"}"#,
        r#"{"setting":"connections","value":"2","source":"medium","medium":"sr0 (Virtual CDROM)"}"#,
        r#"{"setting":"network_timeout","value":"180","source":"site-config"}"#,
        r#"{"setting":"reboot_on_failure_after","value":"never","source":"site-config"}"#,
    ];
    assert_eq!(chosen(&discovery), expected);
}

#[test]
fn what_is_wanted_is_what_would_be_taken() {
    let mut discovery = Discovery::new(site(&json!({})));
    assert!(repository(discovery.site()).is_err());
    assert!(discovery.wants_repository(Source::BootUrl) && discovery.wants_repository(Source::Dhcp));
    assert_eq!(discovery.offer(Source::BootUrl, &[word("repository", "https://boot.test")]), []);
    assert_eq!(repository(discovery.site()).unwrap(), "https://boot.test");
    assert!(!discovery.wants_repository(Source::Dhcp));
    let given = Discovery::new(site(&json!({"repository": "https://site.test"})));
    assert!(!given.wants_repository(Source::BootUrl) && given.wants_repository(Source::Smbios));
}

#[test]
fn what_a_source_may_not_say_is_refused_and_the_rest_taken() {
    for (setting, value) in ONE_OF_EACH {
        for source in Source::ALL {
            let said = refusals(source, &[Word::new(setting, value)]);
            let expected = format!("the {source} sets metalstrap.{setting}, which is not for it to say");
            let expected: Vec<_> = Some(expected).filter(|_| setting.rule(source) == Rule::Never).into_iter().collect();
            assert_eq!(said, expected);
        }
    }
    let mut discovery = Discovery::new(site(&json!({})));
    let words = [word("host", "default"), word("repository", "https://dhcp.test")];
    assert_eq!(discovery.offer(Source::Dhcp, &words).len(), 1);
    assert_eq!(discovery.site().repository, "https://dhcp.test");
}

#[test]
fn words_that_cannot_hold_are_refused_by_source_and_setting() {
    let line = "the kernel command line";
    let long = format!("https://{}", "a".repeat(2048));
    let settings = "metalstrap.repository, metalstrap.mirrors, metalstrap.report_url, metalstrap.host, \
                    metalstrap.connections, metalstrap.network_timeout, metalstrap.reboot_on_failure_after";
    for (key, value, expected) in [
        ("repo", "x", format!("{line} sets metalstrap.repo, and there is no such setting; there are {settings}")),
        (
            "a\u{1b}[2J",
            "x",
            format!("{line} sets metalstrap.a\\u{{1b}}[2J, and there is no such setting; there are {settings}"),
        ),
        ("root", "{}", format!("{line} sets metalstrap.root, and there is no such setting; there are {settings}")),
        ("ca", "x", format!("{line} sets metalstrap.ca, and there is no such setting; there are {settings}")),
        ("repository", "", format!("{line}'s metalstrap.repository is empty")),
        ("repository", "http://a/b", format!("{line}'s metalstrap.repository is \"http://a/b\", not an https:// URL")),
        (
            "repository",
            "https://a/b/",
            format!("{line}'s metalstrap.repository is \"https://a/b/\", with a slash at its end or a query"),
        ),
        (
            "repository",
            "https://a/\u{1b}[2J",
            format!("{line}'s metalstrap.repository holds something else than printable ASCII characters"),
        ),
        (
            "report_url",
            long.as_str(),
            format!("{line}'s metalstrap.report_url has 2056 bytes, more than the 2048 allowed"),
        ),
        ("mirrors", "https://a http://b", format!("{line}'s metalstrap.mirrors is \"http://b\", not an https:// URL")),
        ("report_url", "https://u@a", format!("{line}'s metalstrap.report_url holds a user name or password")),
        (
            "host",
            "7XK",
            format!(
                "{line}'s metalstrap.host cannot be taken: \"7XK\" is no host: not `default`, `uuid-…`, `serial-…` or `mac-…`"
            ),
        ),
        ("connections", "17", format!("{line}'s metalstrap.connections is 17, not 1 to 16")),
        ("connections", "x", format!("{line}'s metalstrap.connections is \"x\", not a number that can hold")),
        ("network_timeout", "-1", format!("{line}'s metalstrap.network_timeout is \"-1\", not a number that can hold")),
        ("network_timeout", "0", format!("{line}'s metalstrap.network_timeout is 0, not 1 to 86400")),
        (
            "reboot_on_failure_after",
            "none",
            format!("{line}'s metalstrap.reboot_on_failure_after is \"none\", not a number that can hold"),
        ),
    ] {
        assert_eq!(refusals(Source::KernelCommandLine, &[word(key, value)]), [expected]);
    }
    let bare = Word { key: b"host".to_vec(), value: None };
    assert_eq!(refusals(Source::Smbios, &[bare]), ["the SMBIOS table's metalstrap.host has no value"]);
    let twice = [word("host", "default"), word("host", "default")];
    assert_eq!(refusals(Source::Smbios, &twice), ["the SMBIOS table sets metalstrap.host twice"]);
}

#[test]
fn without_any_repository_there_is_nothing_to_go_on_with() {
    let error = repository(&Discovery::new(site(&json!({}))).finish().site).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing names the repository: not the site config, the kernel command line, the SMBIOS table, the boot URL, a DHCP \
         server or a labelled medium"
    );
}

/// Settings and names that a site config has and that are no settings.
fn keys() -> impl Strategy<Value = String> {
    let names = Setting::ALL.map(|setting| setting.name().to_owned()).to_vec();
    let site = ["root", "ca", "clock_floor", "format", "dhcp_may_set"].map(str::to_owned).to_vec();
    prop_oneof![prop::sample::select(names), prop::sample::select(site), "[a-z_]{0,10}"]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let good = ONE_OF_EACH.map(|(_, value)| value.as_bytes().to_vec()).to_vec();
    prop_oneof![prop::sample::select(good), prop::collection::vec(any::<u8>(), 0..30)]
}

proptest! {
    /// Whatever anybody says, whom to believe stays what the site config says, and what holds is what a site config may say.
    #[test]
    fn no_source_touches_whom_to_believe(
        offers in prop::collection::vec((0_usize..5, keys(), prop::option::of(values())), 0..12)
    ) {
        let before = site(&json!({"repository": "https://site.test"}));
        let mut discovery = Discovery::new(before.clone());
        for (source, key, value) in offers {
            let word = Word { key: key.into_bytes(), value };
            for refusal in discovery.offer(Source::ALL[source], &[word]) {
                prop_assert!(!refusal.to_string().chars().any(char::is_control), "{refusal}");
            }
        }
        let settings = discovery.finish();
        prop_assert!(Site::parse(&serde_json::to_vec(&settings.site).unwrap()).unwrap() == settings.site);
        for chosen in &settings.chosen {
            prop_assert!(chosen.value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{chosen:?}");
        }
        let (mut before, mut after) = (serde_json::to_value(before).unwrap(), serde_json::to_value(settings.site).unwrap());
        for setting in Setting::ALL {
            before.as_object_mut().unwrap().remove(setting.name());
            after.as_object_mut().unwrap().remove(setting.name());
        }
        prop_assert_eq!(before, after);
    }
}

#[test]
fn the_table_of_the_documentation_is_that_of_the_code() {
    let page = include_str!("../../../docs/configuration.md");
    assert!(page.contains(&table()), "docs/configuration.md lacks this table: run `make docs`\n{}", table());
}
