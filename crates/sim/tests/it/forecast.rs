//! What `tidegate simulate` says: the article's figures, faults, comparisons, and bad input.

use serde_json::{Value, json};
use tidegate_core::pipeline::Cause;
use tidegate_core::units::Span;
use tidegate_sim::forecast::{Fault, Forecast, Input, check, compare, fault, simulate, svg, text};

/// 24 Regions with 76 AZs: one with little traffic, one with much, and what the article's figures are for.
fn organisation(windows: &Value) -> Value {
    let azs = ["a", "b", "c", "d"];
    let region = |n: usize| {
        let count = 3 + usize::from(n >= 20);
        json!({"name": format!("region-{n:02}"), "azs": &azs[..count], "traffic": 10 + 10 * n})
    };
    json!({
        "schema": "tidegate.organisation/1", "name": "acme",
        "users": [{"name": "alice"}, {"name": "bob"}],
        "teams": [{"name": "shop", "members": ["alice", "bob"], "windows": windows}],
        "services": [{"name": "shop", "team": "shop"}, {"name": "stock", "team": "shop"}],
        "regions": (0..24).map(region).collect::<Vec<_>>()
    })
}

/// Business hours of one time zone without Friday afternoon.
fn business_hours() -> Value {
    json!({"weekly": {"time_zone": "Europe/Berlin", "open": [
        {"days": ["monday", "tuesday", "wednesday", "thursday"], "hours": "09:00-16:00"},
        {"days": ["friday"], "hours": "09:00-12:00"}
    ]}})
}

/// Gamma, and production with everything that is not said here at the article's defaults.
fn pipeline() -> Value {
    json!({
        "schema": "tidegate.pipeline/1", "name": "shop-app", "service": "shop",
        "sources": [{"name": "code", "url": "https://git.invalid/shop"}],
        "build": {"package": [{"from": "bin", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/shop"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "gamma", "regions": ["region-00", "region-01"], "one_box": true,
                "tests": [{"name": "smoke", "run": ["bin/smoke"]}]},
            {"environment": "production", "one_box": true}
        ]
    })
}

fn input(windows: &Value, pipeline: &Value, scenario: &Value) -> Input {
    let input = Input {
        organisation: serde_json::from_value(organisation(windows)).unwrap(),
        pipeline: serde_json::from_value(pipeline.clone()).unwrap(),
        scenario: serde_json::from_value(scenario.clone()).unwrap(),
    };
    assert_eq!(tidegate_core::lint::organisation(&input.organisation), []);
    assert_eq!(tidegate_core::lint::pipeline(&input.pipeline, &input.organisation), []);
    assert_eq!(check(&input.scenario, &input.organisation, &input.pipeline), []);
    input
}

fn run(scenario: &Value) -> Forecast {
    simulate(&input(&business_hours(), &pipeline(), scenario)).unwrap()
}

/// K4. Time is counted without Saturdays and Sundays.
#[test]
fn with_the_article_s_defaults_a_change_takes_four_to_five_business_days() {
    let day = 86_400_000;
    // Ten changes a day, which wait for each other.
    let forecast = run(&json!({"schema": "tidegate.scenario/1", "commits": {"per-business-day": 10}}));
    let totals = &forecast.totals;
    assert_eq!((totals.changes, totals.changes_everywhere, forecast.stuck.is_none()), (50, 50, true));
    let median = totals.business_time_median.unwrap().millis();
    assert!((4 * day..=5 * day).contains(&median), "{}", text(&forecast));
    println!("{totals:?}");
}

/// Four Regions with two AZs each in three waves; windows that never close; bakes of the article.
fn small(scenario: &Value) -> Input {
    let mut organisation = organisation(&json!("always"));
    organisation["regions"] = json!([
        {"name": "north", "azs": ["a", "b"], "traffic": 1}, {"name": "east", "azs": ["a", "b"], "traffic": 80},
        {"name": "south", "azs": ["a", "b"], "traffic": 9}, {"name": "west", "azs": ["a", "b"], "traffic": 10}
    ]);
    let mut pipeline = pipeline();
    pipeline["stages"][0]["regions"] = json!(["north"]);
    let input = Input {
        organisation: serde_json::from_value(organisation).unwrap(),
        pipeline: serde_json::from_value(pipeline).unwrap(),
        scenario: serde_json::from_value(scenario.clone()).unwrap(),
    };
    assert_eq!(check(&input.scenario, &input.organisation, &input.pipeline), []);
    input
}

/// One commit, which release 2 brings, and these faults.
fn with_faults(faults: &[&str]) -> Forecast {
    let faults: Vec<Fault> = faults.iter().map(|text| fault(text).unwrap()).collect();
    let commits = json!({"at": ["2026-01-05T08:00:00Z"]});
    let scenario = json!({
        "schema": "tidegate.scenario/1", "start": "2026-01-05T00:00:00Z", "length": "5d", "commits": commits,
        "traffic": {"requests_per_second": 1000, "apis": [{"name": "GET /", "share": 90}, {"name": "POST /", "share": 10}]},
        "faults": faults
    });
    let forecast = simulate(&small(&scenario)).unwrap();
    assert!(forecast.stuck.is_none(), "{}", text(&forecast));
    assert_eq!(forecast.totals.changes, forecast.totals.changes_everywhere, "{}", text(&forecast));
    forecast
}

/// Where release 2 was first rejected or suspected for the first fault, whether it was rejected, and by what.
fn caught(forecast: &Forecast) -> (String, bool, String) {
    let verdict = forecast.faults[0].verdicts.values().flatten().min_by_key(|v| v.at);
    let Some(verdict) = verdict else { panic!("{}", text(forecast)) };
    let cause = match &verdict.cause {
        // The first metric alarm beneath the one that fired.
        Cause::Alarm { scope, evidence, .. } => {
            format!("{} in {scope}", evidence[0].split(':').next().unwrap())
        }
        Cause::Health { target, .. } => format!("health of {target}"),
        other => other.to_string(),
    };
    (verdict.step.as_ref().unwrap().to_string(), verdict.rejected, cause)
}

fn is_caught(faults: &[&str], step: &str, by: &str) -> Forecast {
    let forecast = with_faults(faults);
    assert_eq!(caught(&forecast), (step.to_owned(), true, by.to_owned()), "{}", text(&forecast));
    assert!(forecast.faults[0].over.is_some(), "{}", text(&forecast));
    forecast
}

#[test]
fn a_plain_regression_is_caught_before_production() {
    let forecast = is_caught(
        &["regression,release=2,faults=20"],
        "gamma/one-box",
        "Shop_OneBox_High_Fault_Rate in gamma/north",
    );
    let exposed = forecast.faults[0].exposed.as_ref().unwrap();
    assert_eq!((exposed.requests, exposed.peak_ppm, forecast.totals.requests_exposed), (0, 0, 0));
    // The fix is a change of its own, and brings the first along.
    assert_eq!(
        (forecast.totals.changes, forecast.totals.releases, forecast.totals.releases_everywhere),
        (2, 2, 1)
    );
}

#[test]
fn a_regression_of_one_region_is_caught_in_its_one_box_and_counted() {
    let forecast = is_caught(
        &["regression,release=2,faults=50,region=east"],
        "wave-2/one-box",
        "Shop_OneBox_High_Fault_Rate in production/east",
    );
    let exposed = forecast.faults[0].exposed.as_ref().unwrap();
    // East has 80 % of 1,000 requests per second, its one-box a tenth of them, and half of those fail. Two of three periods of a
    // minute tell.
    assert_eq!(exposed.peak_ppm, 40_000);
    let seconds = exposed.requests_until_caught / 40;
    assert!((60..=180).contains(&seconds), "{seconds}");
    assert_eq!(exposed.regions.keys().map(|r| r.as_str()).collect::<Vec<_>>(), ["east"]);
}

#[test]
fn latency_a_crash_a_load_and_one_api_are_caught_as_what_they_are() {
    is_caught(
        &["regression,release=2,latency=3s"],
        "gamma/one-box",
        "Shop_OneBox_High_P90_Latency in gamma/north",
    );
    is_caught(&["regression,release=2,crash"], "gamma/one-box", "health of shop/gamma/north/a/one-box");
    // Only the Region with most of the traffic has boxes with so many requests.
    is_caught(
        &["regression,release=2,faults=50,above=60"],
        "wave-2/one-box",
        "Shop_OneBox_High_Fault_Rate in production/east",
    );
    // A tenth of the requests fail by half, which is five times what the alarm bears.
    is_caught(
        &["regression,release=2,faults=50,api=POST /"],
        "gamma/one-box",
        "Shop_OneBox_High_Fault_Rate in gamma/north",
    );
}

#[test]
fn a_slow_burn_is_caught_when_it_begins() {
    let forecast = with_faults(&["regression,release=2,faults=20,after=3h"]);
    let (step, rejected, _) = caught(&forecast);
    // No box of gamma runs it for three hours before it goes on; wave-1's last bake is long enough.
    assert!(rejected && step.starts_with("wave-1/"), "{step}: {}", text(&forecast));
    let report = &forecast.faults[0];
    let verdict = report.verdicts.values().flatten().min_by_key(|v| v.at).unwrap();
    let served_since =
        forecast.releases[0].passes.iter().find(|pass| pass.step.as_str() == "wave-1/one-box").unwrap();
    let minutes = verdict.at.since(served_since.entered).millis() / 60_000;
    assert!((180..=185).contains(&minutes), "{minutes} min: {}", text(&forecast));
    // Gamma had finished with it and keeps it, so its alarm keeps the fix out until somebody overrides it.
    let fix = forecast.releases.last().unwrap();
    assert_eq!(
        fix.overrides[0].steps.iter().next().unwrap().as_str(),
        "gamma/one-box",
        "{}",
        text(&forecast)
    );
}

#[test]
fn an_unrelated_outage_makes_a_suspect_that_comes_back_by_itself() {
    let forecast = with_faults(&["outage,region=east,from=1d,until=1d1h"]);
    let releases: Vec<(u64, bool)> =
        forecast.releases.iter().map(|r| (r.release.0, r.everywhere.is_some())).collect();
    assert_eq!(releases, [(2, true)], "{}", text(&forecast));
    let (step, rejected, cause) = caught(&forecast);
    assert!(!rejected && step.starts_with("wave-2/"), "{}", text(&forecast));
    assert_eq!(cause, "Stock_High_Fault_Rate in production/east");
}

#[test]
fn blindness_a_large_scale_event_and_a_slow_engine_cost_time_and_nothing_else() {
    let calm = with_faults(&[]);
    let took = |f: &Forecast| f.totals.to_all_regions_median.unwrap().millis() / 60_000;
    for (what, at_least) in [
        ("blind,region=north,from=12h,until=14h", 100),
        ("large-scale-event,from=9h,until=12h", 60),
        ("slow-engine,delay=4m,from=8h,until=1d8h", 20),
    ] {
        let forecast = with_faults(&[what]);
        let later = took(&forecast) - took(&calm);
        assert!(forecast.releases.iter().all(|r| r.verdicts.is_empty()), "{what}: {}", text(&forecast));
        assert!((at_least..=300).contains(&later), "{what}: {later} min later: {}", text(&forecast));
    }
}

#[test]
fn a_box_that_never_gets_healthy_is_nobody_s_regression_and_somebody_tries_again() {
    let forecast = with_faults(&["sick-box,release=2,region=south"]);
    let (step, rejected, cause) = caught(&forecast);
    assert!(rejected && cause.starts_with("health of shop/production/south/a"), "{step} {cause}");
    assert_eq!(forecast.totals.releases, 1, "{}", text(&forecast));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let json =
        || serde_json::to_string(&with_faults(&["regression,release=2,faults=50,region=east"])).unwrap();
    let first = json();
    assert_eq!(first, json());
    let again: Forecast = serde_json::from_str(&first).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), first);
}

#[test]
fn what_cannot_end_says_so() {
    let never = json!({"weekly": {"time_zone": "UTC", "open": []}});
    let scenario = json!({
        "schema": "tidegate.scenario/1", "length": "2d", "commits": {"at": ["2026-01-05T08:00:00Z"]}
    });
    let mut input = small(&scenario);
    input.organisation.teams[0].windows = serde_json::from_value(never).unwrap();
    let stuck = simulate(&input).unwrap().stuck.unwrap();
    let gate = &stuck.gates[0];
    assert_eq!((gate.step.as_str(), gate.release.0), ("wave-1/one-box", 2));
    assert_eq!(
        gate.reasons[0].to_string(),
        "outside the deployment window, which does not open within a year"
    );

    // Nobody calls the service, so no alarm has data and nothing bakes.
    let mut input = small(&scenario);
    input.scenario.traffic.test_requests_per_second = 0;
    let forecast = simulate(&input).unwrap();
    let stuck = forecast.stuck.as_ref().unwrap();
    assert_eq!(stuck.bakes[0].step.as_str(), "gamma/one-box");
    assert!(stuck.bakes[0].blind.contains_key(&"north".parse().unwrap()), "{stuck:?}");
    assert!(text(&forecast).contains("does not end: "), "{}", text(&forecast));
}

#[test]
fn two_definitions_are_compared_on_the_same_commits_and_faults() {
    let faults = ["regression,release=2,faults=50,region=east"];
    let careful = with_faults(&faults);
    let mut input = small(&json!({
        "schema": "tidegate.scenario/1", "start": "2026-01-05T00:00:00Z", "length": "5d",
        "commits": {"at": ["2026-01-05T08:00:00Z"]}, "traffic": {"requests_per_second": 1000}
    }));
    input.scenario.faults = faults.iter().map(|text| fault(text).unwrap()).collect();
    let production = input.pipeline.stages.last_mut().unwrap();
    (production.one_box, production.bake.first_wave) = (false, Some(Span::hours(1)));
    let comparison = compare(careful, simulate(&input).unwrap());
    let told = comparison.text("careful.json", "hasty.json");
    assert!(comparison.median_later_ms.unwrap() < 0 && comparison.exposed_more > 0, "{told}");
    assert!(told.contains("hasty.json is ") && told.contains(" faster than careful.json"), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
}

#[test]
fn text_and_drawing_show_the_waves() {
    let forecast = with_faults(&["regression,release=2,faults=50,region=east"]);
    let told = text(&forecast);
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let row = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("wave-1/az-2").contains('2') && row("wave-2/one-box").contains('!'), "{told}");
    let drawing = svg(&forecast);
    assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
    assert!(drawing.contains("r2 is taken back in wave-2/one-box"), "{drawing}");
}

#[test]
fn scenarios_are_checked() {
    let scenario = json!({
        "schema": "tidegate.scenario/9", "length": "0s", "commits": {"per-business-day": 0},
        "traffic": {"apis": [{"name": "GET /", "share": 40}]},
        "faults": [
            {"regression": {"release": 1, "harm": {"faults": 0}, "region": "mars", "api": "PUT /"}},
            {"outage": {"region": "north", "service": "nobody", "from": "2h", "until": "1h"}},
            {"blind": {"region": "east", "from": "9d", "until": "10d"}}
        ]
    });
    let mut input = small(&json!({"schema": "tidegate.scenario/1"}));
    input.scenario = serde_json::from_value(scenario).unwrap();
    let found = check(&input.scenario, &input.organisation, &input.pipeline);
    let told: Vec<String> = found.iter().map(|f| format!("{} {}", f.code, f.place)).collect();
    assert_eq!(
        told,
        [
            "TG200 /schema",
            "TG201 /length",
            "TG202 /commits/per-business-day",
            "TG207 /traffic/apis",
            "TG205 /faults/0/regression/release",
            "TG203 /faults/0/regression/region",
            "TG205 /faults/0/regression/harm/faults",
            "TG206 /faults/0/regression/api",
            "TG204 /faults/1/outage/until",
            "TG203 /faults/1/outage/service",
            "TG204 /faults/2/blind/from",
        ]
    );
    for (wrong, why) in [
        ("regression,faults=2", "missing field `release`"),
        ("flood,region=east", "unknown variant `flood`"),
        ("blind,region=east,from=1h,until=soon", "not a span of time"),
        ("regression,release=2,faults=2,faults=3", "said twice"),
    ] {
        let told = fault(wrong).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
}
