use super::*;
use expect_test::expect;
use std::fmt::Write;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn alarm(from: Source) -> OutsideAlarm {
    OutsideAlarm {
        name: AlarmName::new("A").unwrap(),
        scope: Scope::Service,
        from,
        ttl: OutsideAlarm::default_ttl(),
    }
}

/// What is known: a state, about which time the newest word was, and how long it counts still, in seconds.
fn known(state: AlarmState, at: Option<i64>, left: Option<i64>) -> Known {
    let time = |s: i64| Timestamp(NOW.0 + s * 1_000);
    Known { state, heard: Heard { at: at.map(time), expires: left.map(time) } }
}

fn state(state: AlarmState, at: i64, ttl: Option<u64>) -> Word {
    let at = Timestamp(NOW.0 + at * 1_000);
    Word::State { state, why: "said".to_owned(), at, ttl: ttl.map(Span::seconds) }
}

fn since(firing: bool, at: i64) -> Word {
    Word::Since { firing, since: Timestamp(NOW.0 + at * 1_000), why: "said".to_owned() }
}

fn quiet(at: i64) -> Word {
    Word::Quiet { at: Timestamp(NOW.0 + at * 1_000), why: "said".to_owned() }
}

/// What a word does, with times in seconds from now.
fn told(known: &Known, word: &Word) -> String {
    let heard = |heard: &Heard| {
        let seconds =
            |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| format!("{}", (at.0 - NOW.0) / 1_000));
        format!("at {} counts for {}", seconds(heard.at), seconds(heard.expires))
    };
    match known.hear(&alarm(word.source()), word, NOW) {
        Heeded::Nothing => "nothing".to_owned(),
        Heeded::Renewed { heard: h, .. } => format!("renewed: {}", heard(&h)),
        Heeded::Changed { state, heard: h, .. } => format!("{state}: {}", heard(&h)),
    }
}

#[test]
fn a_state_counts_for_its_time_and_only_newer_words_change_it() {
    use AlarmState::{Alarm, InsufficientData, Ok};
    let ok = known(Ok, Some(-60), Some(240));
    let old = known(Ok, Some(-200), Some(100));
    let fires = known(Alarm, Some(-60), Some(240));
    let ran_out = known(InsufficientData, Some(-400), None);
    let mut table = String::new();
    for (what, known, word) in [
        ("the first word", &Known::NOTHING, state(Ok, 0, None)),
        ("a short one", &Known::NOTHING, state(Ok, 0, Some(7))),
        ("not longer than the definition's", &Known::NOTHING, state(Ok, 0, Some(70_000))),
        ("from a clock ahead", &Known::NOTHING, state(Ok, 999_999, None)),
        ("too old to count", &Known::NOTHING, state(Ok, -300, None)),
        ("nearly too old", &Known::NOTHING, state(Ok, -299, None)),
        ("the same soon", &ok, state(Ok, 0, None)),
        ("the same later", &old, state(Ok, 0, None)),
        ("another state", &ok, state(Alarm, 0, None)),
        ("blind", &ok, state(InsufficientData, 0, None)),
        ("the same again (replayed)", &ok, state(Ok, -60, None)),
        ("an older alarm (replayed)", &ok, state(Alarm, -61, None)),
        ("an older ok (replayed)", &fires, state(Ok, -61, None)),
        ("of the same time", &fires, state(Ok, -60, None)),
        ("a newer ok", &fires, state(Ok, -59, None)),
        ("after silence", &ran_out, state(Ok, 0, None)),
        ("an old one after silence (replayed)", &ran_out, state(Ok, -400, None)),
    ] {
        writeln!(table, "{what}: {}", told(known, &word)).unwrap();
    }
    expect![[r#"
        the first word: OK: at 0 counts for 300
        a short one: OK: at 0 counts for 7
        not longer than the definition's: OK: at 0 counts for 300
        from a clock ahead: OK: at 0 counts for 300
        too old to count: nothing
        nearly too old: OK: at -299 counts for 1
        the same soon: nothing
        the same later: renewed: at 0 counts for 300
        another state: ALARM: at 0 counts for 300
        blind: INSUFFICIENT_DATA: at 0 counts for 300
        the same again (replayed): nothing
        an older alarm (replayed): nothing
        an older ok (replayed): nothing
        of the same time: nothing
        a newer ok: OK: at -59 counts for 241
        after silence: OK: at 0 counts for 300
        an old one after silence (replayed): nothing
    "#]]
    .assert_eq(&table);
}

#[test]
fn what_an_alertmanager_says_is_ordered_by_beginnings_and_ends() {
    use AlarmState::{Alarm, InsufficientData, Ok};
    let ended = known(Ok, Some(-60), Some(240));
    let fires = known(Alarm, Some(-60), Some(100));
    let ran_out = known(InsufficientData, Some(-400), None);
    let contradiction = known(InsufficientData, Some(-60), Some(100));
    let watched = known(Ok, None, Some(100));
    let mut table = String::new();
    for (what, known, word) in [
        ("it fires", &Known::NOTHING, since(true, -3_000)),
        ("it fires still", &fires, since(true, -60)),
        ("another one of it fires for longer", &fires, since(true, -900)),
        ("it has ended", &fires, since(false, -1)),
        ("the end of an older one (replayed)", &fires, since(false, -61)),
        ("the end at its very beginning", &fires, since(false, -60)),
        ("it fires again", &ended, since(true, -59)),
        ("it fires from its end on", &ended, since(true, -60)),
        ("it fires since before its end", &ended, since(true, -61)),
        ("and is said to do so still", &contradiction, since(true, -61)),
        ("until it has ended", &contradiction, since(false, -5)),
        ("or begins anew", &contradiction, since(true, -5)),
        ("the same end (replayed)", &ended, since(false, -60)),
        ("a later end", &ended, since(false, -5)),
        ("an end of long ago", &Known::NOTHING, since(false, -3_601)),
        ("a watchdog", &Known::NOTHING, quiet(0)),
        ("a watchdog's old word (replayed)", &watched, quiet(-200)),
        ("a watchdog's older word than counts", &Known::NOTHING, quiet(-300)),
        ("a watchdog's next word", &watched, quiet(-1)),
        ("a watchdog while it fires", &fires, quiet(0)),
        ("a watchdog and a contradiction", &contradiction, quiet(0)),
        ("a watchdog after silence", &ran_out, quiet(0)),
        ("an old alarm after silence", &ran_out, since(true, -500)),
        ("an alarm that a watchdog came before", &watched, since(true, -30)),
    ] {
        writeln!(table, "{what}: {}", told(known, &word)).unwrap();
    }
    expect![[r#"
        it fires: ALARM: at -3000 counts for 300
        it fires still: renewed: at -60 counts for 300
        another one of it fires for longer: renewed: at -60 counts for 300
        it has ended: OK: at -1 counts for 300
        the end of an older one (replayed): nothing
        the end at its very beginning: nothing
        it fires again: ALARM: at -59 counts for 300
        it fires from its end on: ALARM: at -60 counts for 300
        it fires since before its end: INSUFFICIENT_DATA: at -60 counts for 300
        and is said to do so still: renewed: at -60 counts for 300
        until it has ended: OK: at -5 counts for 300
        or begins anew: ALARM: at -5 counts for 300
        the same end (replayed): nothing
        a later end: renewed: at -5 counts for 300
        an end of long ago: nothing
        a watchdog: OK: at - counts for 300
        a watchdog's old word (replayed): nothing
        a watchdog's older word than counts: nothing
        a watchdog's next word: renewed: at - counts for 299
        a watchdog while it fires: nothing
        a watchdog and a contradiction: nothing
        a watchdog after silence: OK: at -400 counts for 300
        an old alarm after silence: nothing
        an alarm that a watchdog came before: ALARM: at -30 counts for 300
    "#]]
    .assert_eq(&table);
}
