use proptest::prelude::*;

use super::*;

/// When the image was built: 2026-11-21 08:00:00 UTC.
const BUILT: i64 = 1_795_248_000;
const YEAR: i64 = 365 * DAY;

fn local(own: i64) -> Local {
    Local { floor: BUILT, own }
}

fn ntp() -> Evidence {
    Evidence::Ntp(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()])
}

fn heard(times: &[i64]) -> Vec<(String, i64)> {
    times.iter().enumerate().map(|(number, time)| (format!("10.0.0.{}", number + 1), *time)).collect()
}

/// The time that is agreed on, the last numbers of the servers' addresses, and the warnings.
fn weighed(times: &[i64]) -> (Option<(i64, String)>, Vec<String>) {
    let Weighed { agreed, warnings } = local(BUILT).weigh(&heard(times));
    let names = |names: Vec<String>| names.join(" ").replace("10.0.0.", "");
    (agreed.map(|(time, servers)| (time, names(servers))), warnings)
}

#[test]
fn a_hardware_clock_that_can_be_right_counts() {
    for own in [BUILT, BUILT + 1, BUILT + 5 * YEAR, BUILT + WINDOW] {
        assert_eq!(local(own).alone(), Judged { time: own, by: Evidence::HardwareClock });
        assert_eq!(local(own).complaint(), None);
    }
}

#[test]
fn a_dead_hardware_clock_counts_for_nothing() {
    let built = Judged { time: BUILT, by: Evidence::BuildTime };
    for (own, words) in [
        (10, "1970-01-01 00:00:10 UTC, before this image was built"),
        (BUILT - 1, "2026-11-21 07:59:59 UTC, before this image was built"),
        (BUILT + WINDOW + 1, "2036-11-21 08:00:01 UTC, more than 10 years after this image was built"),
        (4_070_908_800, "2099-01-01 00:00:00 UTC, more than 10 years after this image was built"),
    ] {
        assert_eq!(local(own).alone(), built);
        let complaint = format!("the hardware clock showed {words}; the clock is set to 2026-11-21 08:00:00 UTC");
        assert_eq!(local(own).complaint(), Some(complaint));
        // What the network says is all there is then.
        let now = BUILT + YEAR;
        assert_eq!(local(own).with(now, ntp()), (Judged { time: now, by: ntp() }, None));
    }
}

#[test]
fn the_network_moves_the_clock_on_and_never_back() {
    let own = BUILT + YEAR;
    let ahead = own + 3600;
    assert_eq!(local(own).with(ahead, ntp()), (Judged { time: ahead, by: ntp() }, None));
    assert_eq!(local(own).with(own - 3600, ntp()), (local(own).alone(), None));
    assert_eq!(local(own).with(own, ntp()), (local(own).alone(), None));
    // A lie by half a year, either way.
    let words = |said: &str| {
        let who = "the hardware clock shows 2027-11-21 08:00:00 UTC, and NTP of 10.0.0.1 and 10.0.0.2 says";
        Some(format!("{who} {said}: the later one counts"))
    };
    let past = own - 180 * DAY;
    assert_eq!(local(own).with(past, ntp()), (local(own).alone(), words("2027-05-25 08:00:00 UTC")));
    let future = own + 180 * DAY;
    let on = Judged { time: future, by: ntp() };
    assert_eq!(local(own).with(future, ntp()), (on, words("2028-05-19 08:00:00 UTC")));
}

#[test]
fn what_cannot_be_is_not_believed() {
    let date = || Evidence::ServerDate("deploy.example".to_owned());
    for (own, said, words) in [
        (BUILT + 9, BUILT - YEAR, "2025-11-21 08:00:00 UTC, before this image was built"),
        (10, BUILT - DAY - 1, "2026-11-20 07:59:59 UTC, before this image was built"),
        (10, BUILT + WINDOW + 1, "2036-11-21 08:00:01 UTC, more than 10 years after this image was built"),
    ] {
        let warning = format!("the date that deploy.example sends says {words}: it is not believed");
        assert_eq!(local(own).with(said, date()), (local(own).alone(), Some(warning)));
    }
    // Somewhat before it is a clock that is slow, or the builder's was fast: no lie, and no gain.
    assert_eq!(local(10).with(BUILT - DAY, date()), (local(10).alone(), None));
}

#[test]
fn most_of_the_servers_must_agree() {
    let now = BUILT + YEAR;
    assert_eq!(weighed(&[]), (None, vec![]));
    assert_eq!(weighed(&[now]), (Some((now, "1".into())), vec![]));
    assert_eq!(weighed(&[now + 10, now]), (Some((now, "2 1".into())), vec![]));
    assert_eq!(weighed(&[now + 2, now, now + 1]), (Some((now + 1, "2 3 1".into())), vec![]));
    let lie = "the time server 10.0.0.2 says 2029-11-20 08:00:00 UTC, unlike most of them: it is not believed";
    assert_eq!(weighed(&[now, now + 2 * YEAR, now + 1]), (Some((now, "1 3".into())), vec![lie.into()]));
    let tie = "the time servers do not agree, and none is believed: 10.0.0.2 says 2027-11-21 08:00:00 UTC, \
               10.0.0.1 says 2027-11-21 08:00:11 UTC";
    assert_eq!(weighed(&[now + 11, now]), (None, vec![tie.into()]));
}

#[test]
fn a_server_that_says_what_cannot_be_has_no_vote() {
    let now = BUILT + YEAR;
    let (agreed, warnings) = weighed(&[86_400, now, 4_070_908_800]);
    assert_eq!(agreed, Some((now, "2".into())));
    let says = |server: u8, words: &str| format!("the time server 10.0.0.{server} says {words}: it is not believed");
    let expected = [
        says(1, "1970-01-02 00:00:00 UTC, before this image was built"),
        says(3, "2099-01-01 00:00:00 UTC, more than 10 years after this image was built"),
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn the_hardware_clock_gets_what_ntp_says_within_a_day() {
    let now = BUILT + YEAR;
    assert_eq!(for_hardware_clock(now, None), now);
    for ntp in [now - DAY, now - 8 * 3600, now, now + DAY] {
        assert_eq!(for_hardware_clock(now, Some(ntp)), ntp);
    }
    for ntp in [now - DAY - 1, now + DAY + 1, 0, i64::MAX] {
        assert_eq!(for_hardware_clock(now, Some(ntp)), now);
    }
}

/// Times around the image's, and any others.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![BUILT - 3 * DAY..BUILT + 3 * DAY, BUILT - 2 * WINDOW..BUILT + 2 * WINDOW, any::<i64>()]
}

proptest! {
    /// The one law that matters: whatever the network says, a certificate or metadata that is over by what the machine
    /// knows itself stays so, and the clock stays within the window.
    #[test]
    fn nothing_that_is_said_makes_it_earlier(own in time(), said in time(), server in any::<bool>()) {
        let local = local(own);
        let by = if server { Evidence::ServerDate("x".into()) } else { ntp() };
        let (judged, _) = local.with(said, by);
        prop_assert!(judged.time >= local.alone().time && judged.time >= local.floor);
        prop_assert!(judged.time <= local.floor + WINDOW);
        prop_assert!(!local.plausible() || judged.time >= local.own);
        prop_assert!(judged.time == said || judged == local.alone());
        let set = for_hardware_clock(judged.time, Some(said));
        prop_assert!(set >= judged.time - DAY && set <= judged.time + DAY);
    }

    /// A majority that is right wins, whatever the others say.
    #[test]
    fn a_minority_changes_nothing(
        right in BUILT..BUILT + WINDOW - 2,
        apart in prop::collection::vec(0_i64..=2, 1..5),
        lies in prop::collection::vec(time(), 0..4),
        turn: prop::sample::Index,
    ) {
        let lies = &lies[..lies.len().min(apart.len() - 1)];
        let mut times: Vec<i64> = apart.iter().map(|apart| right + apart).chain(lies.iter().copied()).collect();
        let turn = turn.index(times.len());
        times.rotate_left(turn);
        let agreed = local(BUILT).weigh(&heard(&times)).agreed.map(|(time, _)| time);
        prop_assert!(agreed.is_some_and(|time| time.abs_diff(right) <= 12), "{:?} of {:?}", agreed, times);
    }

    /// Of each server that is not believed a person hears.
    #[test]
    fn nobody_is_passed_over_in_silence(times in prop::collection::vec(time(), 0..8)) {
        let heard = heard(&times);
        let Weighed { agreed, warnings } = local(BUILT).weigh(&heard);
        let believed = agreed.map(|(_, servers)| servers).unwrap_or_default();
        for (name, _) in &heard {
            let told = warnings.iter().any(|text| text.contains(&format!("{name} says ")));
            prop_assert_eq!(believed.contains(name), !told, "{}: {:?}", name, &warnings);
        }
    }
}
