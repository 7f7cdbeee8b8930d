use super::*;

#[test]
fn messages_are_one_json_line_each() {
    let text = |message: &Message| serde_json::to_string(message).unwrap();
    assert_eq!(text(&Message::Beat), r#""beat""#);
    assert_eq!(
        text(&Message::Policy { reboot_on_failure_after: Some(5) }),
        r#"{"policy":{"reboot_on_failure_after":5}}"#
    );
    assert_eq!(text(&Message::Consoles { names: vec!["ttyS1".into()] }), r#"{"consoles":{"names":["ttyS1"]}}"#);
    assert_eq!(text(&Message::Run { id: "5b9c".into() }), r#"{"run":{"id":"5b9c"}}"#);
    assert_eq!(text(&Message::Watchdog { seconds: 60 }), r#"{"watchdog":{"seconds":60}}"#);
    assert_eq!(text(&Message::Ending(Ending::Kexec)), r#"{"ending":"kexec"}"#);
    let step = |touched| text(&Message::Step { step: "root".into(), touched });
    assert_eq!(step(Touched::Nothing), r#"{"step":{"step":"root","touched":"nothing"}}"#);
    assert_eq!(step(Touched::Begun("vda".into())), r#"{"step":{"step":"root","touched":{"begun":"vda"}}}"#);
    assert_eq!(
        step(Touched::Beside("vda".into(), "debian_13.1".into())),
        r#"{"step":{"step":"root","touched":{"beside":["vda","debian_13.1"]}}}"#
    );
}

#[test]
fn messages_survive_being_cut_anywhere() {
    let stream = b"\"beat\"\nnonsense\n{\"ending\":\"reboot\"}\n\"be";
    for cut in 0..stream.len() {
        let mut messages = Messages::default();
        let mut got = messages.push(&stream[..cut]);
        got.extend(messages.push(&stream[cut..]));
        assert_eq!(got, [Message::Beat, Message::Ending(Ending::Reboot)]);
    }
}

#[test]
fn an_installer_in_which_nothing_stirs_has_no_pulse() {
    let pipe = EndingPipe::nowhere();
    let start = Instant::now();
    let mut pulse = Pulse { still: STILL, seen: pipe.0.stirrings.now(), changed: start };
    let mut alive = |seconds| pulse.alive(pipe.0.stirrings.now(), start + Duration::from_secs(seconds));
    assert!(alive(599));
    assert!(!alive(600));
    pipe.step("root", &Touched::Nothing);
    assert!(alive(610));
    pipe.stir(0, false);
    assert!(!alive(1210));
    pipe.stir(4096, false);
    assert!(alive(1220));
    pipe.stir(4096, false);
    assert!(!alive(1820));
    pipe.stir(4096, true);
    assert!(alive(1830));
}

#[test]
fn an_endless_line_is_dropped() {
    let mut messages = Messages::default();
    assert_eq!(messages.push(&vec![b'x'; Messages::MAX_LINE + 1]), []);
    assert_eq!(messages.push(b"\"beat\"\n"), [Message::Beat]);
}
