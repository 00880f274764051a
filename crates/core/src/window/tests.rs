use super::*;
use expect_test::expect;
use proptest::prelude::*;
use std::fmt::Write;

fn weekly(zone: &str, hours: &[(&str, &str)], closed: &[&str]) -> Windows {
    let open: Vec<_> = hours
        .iter()
        .map(|(days, hours)| serde_json::json!({"days": days.split(' ').collect::<Vec<_>>(), "hours": hours}))
        .collect();
    let closed: Vec<_> =
        closed.iter().map(|dates| serde_json::json!({"dates": dates, "reason": "freeze"})).collect();
    let json = serde_json::json!({"weekly": {"time_zone": zone, "open": open, "closed": closed}});
    serde_json::from_value(json).unwrap()
}

const ALL: &str = "monday tuesday wednesday thursday friday saturday sunday";

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

/// The state, with instants in local time.
fn show(windows: &Windows, now: &str) -> String {
    let Windows::Weekly(weekly) = windows else { return "always".into() };
    let local = |t: Timestamp| {
        let zoned = jiff::Timestamp::from_millisecond(t.0).unwrap().to_zoned(weekly.time_zone.get().clone());
        zoned.strftime("%a %F %H:%M%:z").to_string()
    };
    let or_never = |t: Option<Timestamp>| t.map_or("never".into(), local);
    let now = at(now);
    match windows.check(now) {
        WindowState::Open { until } => format!("{}: open until {}", local(now), or_never(until)),
        WindowState::Closed { why, opens } => format!("{}: {why}, opens {}", local(now), or_never(opens)),
    }
}

#[test]
fn business_hours() {
    let berlin = Windows::business_hours("europe/berlin".parse().unwrap());
    let no_friday = berlin.clone().without(Weekday::Friday);
    let mut text = String::new();
    for now in
        ["2026-11-23T07:59:59Z", "2026-11-23T08:00:00Z", "2026-11-23T14:59:00Z", "2026-11-27T15:00:00Z"]
    {
        writeln!(text, "{}", show(&berlin, now)).unwrap();
    }
    writeln!(text, "{}", show(&no_friday, "2026-11-26T15:00:00Z")).unwrap();
    expect![[r#"
        Mon 2026-11-23 08:59+01:00: outside the window's hours, opens Mon 2026-11-23 09:00+01:00
        Mon 2026-11-23 09:00+01:00: open until Mon 2026-11-23 16:00+01:00
        Mon 2026-11-23 15:59+01:00: open until Mon 2026-11-23 16:00+01:00
        Fri 2026-11-27 16:00+01:00: outside the window's hours, opens Mon 2026-11-30 09:00+01:00
        Thu 2026-11-26 16:00+01:00: outside the window's hours, opens Mon 2026-11-30 09:00+01:00
    "#]]
    .assert_eq(&text);
    assert_eq!(Windows::default().check(at("2026-11-28T03:00:00Z")), WindowState::Open { until: None });
}

#[test]
fn blackouts_close_the_dates_of_the_zone() {
    let windows =
        weekly("America/New_York", &[(ALL, "00:00-24:00")], &["2026-12-24/2026-12-26", "2027-01-01"]);
    let mut text = String::new();
    for now in ["2026-12-20T12:00:00Z", "2026-12-24T05:00:00Z", "2026-12-27T05:00:00Z"] {
        writeln!(text, "{}", show(&windows, now)).unwrap();
    }
    expect![[r#"
        Sun 2026-12-20 07:00-05:00: open until Thu 2026-12-24 00:00-05:00
        Thu 2026-12-24 00:00-05:00: freeze (2026-12-24/2026-12-26), opens Sun 2026-12-27 00:00-05:00
        Sun 2026-12-27 00:00-05:00: open until Fri 2027-01-01 00:00-05:00
    "#]]
    .assert_eq(&text);
}

#[test]
fn daylight_saving_time() {
    let mut text = String::new();
    // In Berlin 02:00 to 03:00 does not exist on 2026-03-29 and exists twice on 2026-10-25.
    let berlin = weekly("Europe/Berlin", &[(ALL, "02:30-04:00")], &[]);
    for now in ["2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", "2026-10-24T12:00:00Z"] {
        writeln!(text, "{}", show(&berlin, now)).unwrap();
    }
    // The second 02:00 is closed again until the second 02:30.
    for now in ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"] {
        writeln!(text, "{}", show(&berlin, now)).unwrap();
    }
    let inside_the_gap = weekly("Europe/Berlin", &[("sunday", "02:00-03:00")], &[]);
    writeln!(text, "{}", show(&inside_the_gap, "2026-03-28T12:00:00Z")).unwrap();
    // Business hours move with the clock.
    let business = Windows::business_hours("Europe/Berlin".parse().unwrap());
    writeln!(text, "{}", show(&business, "2026-03-28T12:00:00Z")).unwrap();
    // In Beirut, midnight itself is skipped; in Santiago, it is repeated; in Apia, a whole day was.
    let beirut = weekly("Asia/Beirut", &[("sunday", "00:00-01:30")], &[]);
    writeln!(text, "{}", show(&beirut, "2026-03-28T12:00:00Z")).unwrap();
    let santiago = weekly("America/Santiago", &[("saturday", "23:30-24:00"), ("sunday", "00:00-01:00")], &[]);
    for now in ["2026-04-04T12:00:00Z", "2026-04-05T03:00:00Z"] {
        writeln!(text, "{}", show(&santiago, now)).unwrap();
    }
    let apia = weekly("Pacific/Apia", &[("friday", "00:00-24:00")], &[]);
    writeln!(text, "{}", show(&apia, "2011-12-28T12:00:00Z")).unwrap();
    expect![[r#"
        Sat 2026-03-28 13:00+01:00: outside the window's hours, opens Sun 2026-03-29 03:00+02:00
        Sun 2026-03-29 03:00+02:00: open until Sun 2026-03-29 04:00+02:00
        Sat 2026-10-24 14:00+02:00: outside the window's hours, opens Sun 2026-10-25 02:30+02:00
        Sun 2026-10-25 02:30+02:00: open until Sun 2026-10-25 02:00+01:00
        Sun 2026-10-25 02:00+01:00: outside the window's hours, opens Sun 2026-10-25 02:30+01:00
        Sun 2026-10-25 02:30+01:00: open until Sun 2026-10-25 04:00+01:00
        Sat 2026-03-28 13:00+01:00: outside the window's hours, opens Sun 2026-04-05 02:00+02:00
        Sat 2026-03-28 13:00+01:00: outside the window's hours, opens Mon 2026-03-30 09:00+02:00
        Sat 2026-03-28 14:00+02:00: outside the window's hours, opens Sun 2026-03-29 01:00+03:00
        Sat 2026-04-04 09:00-03:00: outside the window's hours, opens Sat 2026-04-04 23:30-03:00
        Sat 2026-04-04 23:00-04:00: outside the window's hours, opens Sat 2026-04-04 23:30-04:00
        Wed 2011-12-28 02:00-10:00: outside the window's hours, opens Fri 2012-01-06 00:00+14:00
    "#]]
    .assert_eq(&text);
}

#[test]
fn the_search_ends() {
    let never = weekly("UTC", &[], &[]);
    assert_eq!(
        show(&never, "2026-01-01T00:00:00Z"),
        "Thu 2026-01-01 00:00+00:00: outside the window's hours, opens never"
    );
    let frozen = weekly("UTC", &[(ALL, "00:00-24:00")], &["2026-01-01/2030-01-01"]);
    assert_eq!(
        show(&frozen, "2026-01-01T00:00:00Z"),
        "Thu 2026-01-01 00:00+00:00: freeze (2026-01-01/2030-01-01), opens never"
    );
    let open = weekly("UTC", &[(ALL, "00:00-24:00")], &[]);
    assert_eq!(open.check(at("2026-01-01T00:00:00Z")), WindowState::Open { until: None });
    for extreme in [i64::MIN, i64::MAX, 253_402_207_200_000] {
        let state = never.check(Timestamp(extreme));
        assert_eq!(state, WindowState::Closed { why: ClosedBecause::OutsideHours, opens: None });
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_a_reason() {
    let mut text = String::new();
    for (zone, days, hours, dates) in [
        ("Europe/Berlim", "monday", "09:00-16:00", "2026-12-25"),
        ("Mars", "monday", "09:00-16:00", "2026-12-25"),
        ("UTC", "mon", "09:00-16:00", "2026-12-25"),
        ("UTC", "monday", "9-16", "2026-12-25"),
        ("UTC", "monday", "09:00-24:01", "2026-12-25"),
        ("UTC", "monday", "09:60-10:00", "2026-12-25"),
        ("UTC", "monday", "22:00-06:00", "2026-12-25"),
        ("UTC", "monday", "09:00-16:00", "2026-02-30"),
        ("UTC", "monday", "09:00-16:00", "2026-12-25/2026-12-24"),
    ] {
        let json = serde_json::json!({"weekly": {"time_zone": zone,
            "open": [{"days": [days], "hours": hours}], "closed": [{"dates": dates, "reason": "x"}]}});
        writeln!(text, "{}", serde_json::from_value::<Windows>(json).unwrap_err()).unwrap();
    }
    let many = serde_json::json!({"weekly": {"time_zone": "UTC",
        "open": vec![serde_json::json!({"days": [], "hours": "00:00-24:00"}); MAX_ENTRIES + 1]}});
    writeln!(text, "{}", serde_json::from_value::<Windows>(many).unwrap_err()).unwrap();
    let unknown = serde_json::json!({"weekly": {"time_zone": "UTC", "open": [], "until": 1}});
    writeln!(text, "{}", serde_json::from_value::<Windows>(unknown).unwrap_err()).unwrap();
    expect![[r#"
        'Europe/Berlim' is not a time zone: did you mean Europe/Berlin?
        'Mars' is not a time zone: write an IANA name, such as Europe/Berlin or UTC
        unknown variant `mon`, expected one of `monday`, `tuesday`, `wednesday`, `thursday`, `friday`, `saturday`, `sunday`
        '9-16' are no hours of a day: write from and until, such as 09:00-16:00, between 00:00 and 24:00
        '09:00-24:01' are no hours of a day: write from and until, such as 09:00-16:00, between 00:00 and 24:00
        '09:60-10:00' are no hours of a day: write from and until, such as 09:00-16:00, between 00:00 and 24:00
        '22:00-06:00' are no hours of a day: they must end after they begin; write hours over midnight as two entries
        '2026-02-30' are no dates: write a date, 2026-12-25, or the first and the last, 2026-12-24/2027-01-01
        '2026-12-25/2026-12-24' are no dates: the last is before the first
        201 entries are more than the 200 allowed
        unknown field `until`, expected one of `time_zone`, `open`, `closed`
    "#]].assert_eq(&text);
}

#[test]
fn it_survives_json() {
    let windows = weekly("europe/berlin", &[("friday monday", "09:00-24:00")], &["2026-12-24/2027-01-01"]);
    let json = serde_json::to_string(&windows).unwrap();
    expect![[r#"{"weekly":{"time_zone":"Europe/Berlin","open":[{"days":["monday","friday"],"hours":"09:00-24:00"}],"closed":[{"dates":"2026-12-24/2027-01-01","reason":"freeze"}]}}"#]].assert_eq(&json);
    assert_eq!(serde_json::from_str::<Windows>(&json).unwrap(), windows);
    assert_eq!(serde_json::from_str::<Windows>("\"always\"").unwrap(), Windows::Always);
    assert!(serde_json::to_string(&schemars::schema_for!(Windows)).unwrap().contains("time_zone"));
}

fn any_windows() -> impl Strategy<Value = Windows> {
    let zones = vec![
        "UTC",
        "Europe/Berlin",
        "America/Santiago",
        "Asia/Beirut",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
    ];
    let days = prop::sample::subsequence(ALL.split(' ').collect::<Vec<_>>(), 0..=7);
    let hours = (0_u16..96, 0_u16..96).prop_map(|(a, b)| {
        let (from, until) = (a.min(b) * 15, (a.max(b) + 1) * 15);
        format!("{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    });
    let closed =
        prop::collection::vec((1_i8..=12, 1_i8..=28).prop_map(|(m, d)| format!("2026-{m:02}-{d:02}")), 0..4);
    (prop::sample::select(zones), prop::collection::vec((days, hours), 0..4), closed).prop_map(
        |(zone, open, closed)| {
            let open: Vec<(String, String)> = open
                .into_iter()
                .filter(|(days, _)| !days.is_empty())
                .map(|(d, h)| (d.join(" "), h))
                .collect();
            let open: Vec<(&str, &str)> = open.iter().map(|(d, h)| (d.as_str(), h.as_str())).collect();
            weekly(zone, &open, &closed.iter().map(String::as_str).collect::<Vec<_>>())
        },
    )
}

proptest! {
    /// Until the change that it tells, a window stays as it is (looked at every quarter of an hour, which is where all
    /// boundaries and offsets of these zones lie), and from then on it is the other way.
    #[test]
    fn it_changes_when_it_says_and_not_before(windows in any_windows(), minute in 0_i64..527_040) {
        let now = Timestamp(at("2026-01-01T00:00:00Z").0 + minute * 60_000);
        let state = windows.check(now);
        let change = match &state {
            WindowState::Open { until } => *until,
            WindowState::Closed { opens, .. } => *opens,
        };
        let Windows::Weekly(weekly) = &windows else { unreachable!("only weekly windows are made") };
        let is_open = |t: Timestamp| {
            weekly.closed_because(jiff::Timestamp::from_millisecond(t.0).unwrap()).is_none()
        };
        prop_assert_eq!(is_open(now), state.is_open());
        const QUARTER: i64 = 15 * 60_000;
        let end = now.0 + 399 * 86_400_000;
        let mut t = (now.0 / QUARTER + 1) * QUARTER;
        while t < change.map_or(end, |c| c.0) {
            prop_assert_eq!(is_open(Timestamp(t)), state.is_open(), "at {}", Timestamp(t));
            t += QUARTER;
        }
        if let Some(change) = change {
            prop_assert!(change > now);
            prop_assert_ne!(is_open(change), state.is_open());
            prop_assert_eq!(is_open(Timestamp(change.0 - 1)), state.is_open());
            prop_assert_ne!(windows.check(change).is_open(), state.is_open());
        }
    }
}
