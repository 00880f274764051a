//! Whole screens of a constructed state.

use super::*;
use expect_test::expect;
use serde_json::{Value, json};

const NOW: i64 = 1_700_000_000_000;

fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn ago(seconds: i64) -> i64 {
    NOW - seconds * 1_000
}

fn target(region: &str, az: &str, current: u64, motion: Value, capacity: Value) -> Value {
    json!({
        "name": format!("frontend/production/{region}/{az}/main"), "region": region, "az": az, "boxes": 6,
        "current": current, "motion": motion, "capacity": capacity,
    })
}

fn change(digit: char, subject: &str, late: bool) -> Value {
    json!({
        "source": "code", "commit": commit(digit), "subject": subject, "author": "Alice",
        "approved_by": "bob", "approved_at": ago(5_000), "late": late,
    })
}

fn cause() -> Value {
    json!({
        "text": "alarm Frontend_OneBox_High_Severity in production/eu-1 (fault rate 12.5 % > 1 % in 2 of 3 periods)",
        "cause": {"person": {"by": {"user": "bob"}, "reason": "as in the text"}},
    })
}

fn releases() -> Value {
    let built = json!({"state": "built", "package": "a".repeat(64), "at": ago(900)});
    let release = |no: u64, digit, subject, build: &Value, standing: Value| {
        json!({
            "release": no, "commits": {"code": commit(digit)}, "changes": [change(digit, subject, no == 8)],
            "created_at": ago(1_000), "build": build, "standing": standing, "taint": null,
        })
    };
    let building = json!({"state": "building", "since": ago(20), "deadline": NOW + 600_000});
    let failed = json!({"state": "failed", "why": "step 'test' ended with exit status 101\n\u{1b}[31mpanicked", "at": ago(60)});
    json!([
        release(10, 'e', "say it nicer", &building, json!({"state": "good"})),
        release(9, 'd', "break the build", &failed, json!({"state": "good"})),
        release(
            8,
            'c',
            "try a new cache that answers faster for most of the customers of the shop",
            &built,
            json!({"state": "rejected", "at": ago(200), "cause": cause()})
        ),
        release(
            7,
            'b',
            "warm the cache",
            &built,
            json!({"state": "suspect", "since": ago(30), "scopes": ["production/eu-1"], "cause": cause()})
        ),
        release(6, 'a', "add a cache", &built, json!({"state": "good"})),
    ])
}

fn step(name: &str, work: Value, done: Value, waiting: Value, targets: Value) -> Value {
    json!({"name": name, "role": "main", "work": work, "done": done, "waiting": waiting, "targets": targets})
}

fn left_out(mut step: Value) -> Value {
    let text = "us-1 still runs r6: skipped by bob: a cable is cut (skip 3)";
    step["left_out"] = json!([{"region": "us-1", "text": text, "skip": 3}]);
    step
}

fn stages() -> Value {
    let settled = json!({"kind": "settled"});
    let enough = json!({"state": "enough"});
    let forward = json!({"kind": "forward", "release": 7, "asked": 4, "settled": 2, "deadline": NOW + 600_000, "trouble": "box 3 exited with 1"});
    let back = json!({"kind": "back", "from": [8], "to": 6, "asked": 6, "settled": 4, "deadline": NOW + 600_000, "trouble": null});
    let bake = json!({
        "started": ago(30), "needed": "1m", "blind": {"since": ago(5), "alarms": ["Frontend_High_Latency"]},
        "regions": [{"region": "eu-1", "watched": "30s", "data": []}],
        "missing": ["30s of watched time in eu-1", "12 of 100 requests to POST /orders in eu-1"],
    });
    let hold = json!({"text": "hold 1 by alice: audit", "blocker": "hold", "reason": {"hold": {"hold": 1, "by": {"user": "alice"}, "reason": "audit"}}});
    let busy = json!({"text": "r7 is deploying here", "blocker": null, "reason": {"step-busy": {"release": 7, "phase": "deploying"}}});
    json!([
        {"name": "beta", "environment": "beta", "production": false, "steps": [
            step("beta/az-1", json!({"phase": "done", "release": 7, "since": ago(500), "at": ago(400)}), json!(7),
                json!({"release": 10, "reasons": [hold]}), json!([target("eu-1", "a", 7, settled.clone(), enough.clone())])),
        ]},
        {"name": "wave-1", "environment": "production", "production": true, "steps": [
            step("wave-1/one-box", json!({"phase": "baking", "release": 7, "since": ago(60), "bake": bake}), json!(6),
                json!(null), json!([target("eu-1", "a", 7, settled.clone(), json!({"state": "short", "healthy": 3, "minimum": 4}))])),
            step("wave-1/az-1", json!({"phase": "deploying", "release": 7, "since": ago(90)}), json!(6),
                json!({"release": 10, "reasons": [busy]}), json!([target("eu-1", "a", 6, forward, enough.clone())])),
            step("wave-1/az-2", json!({"phase": "rolling-back", "release": 8, "since": ago(7), "cause": cause()}), json!(6),
                json!(null), json!([target("eu-1", "b", 6, back, enough)])),
            step("wave-1/az-3", json!({"phase": "rolled-back", "release": 8, "at": ago(3), "cause": cause()}), json!(6), json!(null), json!([])),
        ]},
        {"name": "wave-2", "environment": "production", "production": true, "steps": [
            left_out(step("wave-2/one-box", json!({"phase": "free"}), json!(null), json!(null), json!([]))),
        ]},
    ])
}

fn constructed() -> Status {
    let value = json!({
        "version": 1, "now": NOW,
        "troubles": [
            {"what": "nothing is kept in /srv/tidegate", "why": "the disk is full: free some space; until then only rollbacks are recorded",
                "since": ago(90), "tries": 0},
            {"what": "the page \"frontend: r8 is rolled back\"", "why": "webhook 1: no answer within 10000 ms", "since": ago(30), "tries": 3}
        ],
        "organisation": {"name": "shop", "alarms": [{"name": "large-scale-event", "by": {"user": "root"},
            "reason": "the network of eu-1 loses packets, and nobody should deploy before it is mended", "since": ago(120)}]},
        "teams": [
            {"name": "web", "suspect_turn": "frontend", "alarms": [
                {"scope": "production/eu-1", "name": "High_Severity_Aggregate", "state": "alarm", "since": ago(12),
                    "why": "firing: Frontend_High_Fault_Rate"},
                {"scope": "beta/eu-1", "name": "Canaries_High_Severity", "state": "insufficient-data", "since": ago(9_000),
                    "why": "no data: Frontend_High_Canary_Failures"},
            ]},
            {"name": "data", "suspect_turn": null, "alarms": []},
        ],
        "pipelines": [{
            "name": "frontend", "service": "frontend", "team": "web",
            "sources": [{"name": "code", "head": commit('f'), "pending_count": 1,
                "trouble": {"why": "the repository does not answer", "since": ago(300)},
                "pending": [{"commit": commit('f'), "subject": "skip \u{7}review", "author": "Mallory", "seen_at": ago(9),
                    "unreviewed": "no approval by a team member other than its author (alice, bob)"}]}],
            "releases": releases(), "stages": stages(), "detached": [],
            "holds": [{"number": 1, "by": {"user": "alice"}, "reason": "audit", "since": ago(60), "until": NOW + 3_600_000, "stage": "beta"}],
            "overrides": [{"number": 2, "release": 7, "blockers": ["organisation-alarm"], "steps": [], "by": {"user": "bob"},
                "reason": "it mends the network", "at": ago(10), "expires": NOW + 1_800_000}],
            "skips": [{"number": 3, "scope": "production/us-1", "release": null, "by": {"user": "bob"},
                "reason": "a cable is cut", "since": ago(600)}],
            "retirement": {"complete": false, "by": {"user": "root"}, "reason": "one service less", "since": ago(3)},
        }],
        "next": "gateway",
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_status_shows_every_state_with_its_reason() {
    let shown = status(&constructed(), Paint::NONE);
    expect![[r#"
        shop  2023-11-14T22:13:20.000Z
          TROUBLE  nothing is kept in /srv/tidegate (for 90s): the disk is full: free some space; until then
                   only rollbacks are recorded
          TROUBLE  the page "frontend: r8 is rolled back" (for 30s, tried 3 times): webhook 1: no answer
                   within 10000 ms
          ALARM large-scale-event  raised by root 2m ago: the network of eu-1 loses packets, and nobody
                                   should deploy before it is mended; nothing starts anywhere

        team web
          production/eu-1  ALARM              High_Severity_Aggregate since 12s: firing:
                                              Frontend_High_Fault_Rate
          beta/eu-1        INSUFFICIENT_DATA  Canaries_High_Severity since 2h: no data:
                                              Frontend_High_Canary_Failures
          the suspect release of frontend is on its way back

        frontend  service frontend, team web
          RETIRING  by root 3s ago: one service less; its boxes run on
          HOLD 1  beta by alice for 60s, ends in 60m: audit
          SKIP 3  production/us-1 is left out by bob for 10m: a cable is cut
          OVERRIDE 2  r7 may pass organisation-alarm by bob, ends in 30m: it mends the network
          source code  at ffffffffff, 1 commit is in no release yet
            TROUBLE  since 5m: the repository does not answer
            ffffffffff  "skip review" by Mallory: no approval by a team member other than its author (alice,
                        bob)
          r10  building  for 20s, given up in 10m; eeeeeeeeee "say it nicer" (approved by bob)
          r9   FAILED    to build 60s ago: step 'test' ended with exit status 101 [31mpanicked; dddddddddd
                         "break the build" (approved by bob)
          r8   REJECTED  3m ago: alarm Frontend_OneBox_High_Severity in production/eu-1 (fault rate 12.5 % >
                         1 % in 2 of 3 periods); cccccccccc "try a new cache that answers faster for most of
                         the customers of the shop" (approved late by bob)
          r7   SUSPECT   for 30s, and comes back by itself when it is quiet: alarm
                         Frontend_OneBox_High_Severity in production/eu-1 (fault rate 12.5 % > 1 % in 2 of 3
                         periods); bbbbbbbbbb "warm the cache" (approved by bob)
          r6   built     aaaaaaaaaa "add a cache" (approved by bob)
          beta/az-1       r7   done          6m ago
              r10 waits  hold 1 by alice: audit
          wave-1/one-box  r7   baking        BLIND for 5s: no data for Frontend_High_Latency; missing 30s of
                                             watched time in eu-1, 12 of 100 requests to POST /orders in
                                             eu-1
              eu-1/a  only 3 boxes are healthy, and 4 must be
          wave-1/az-1     r7   deploying     for 90s
              eu-1/a  2 of 6 boxes run r7, 4 asked for; the next within 10m; box 3 exited with 1
              r10 waits  r7 is deploying here
          wave-1/az-2     r8   ROLLING BACK  for 7s: alarm Frontend_OneBox_High_Severity in production/eu-1
                                             (fault rate 12.5 % > 1 % in 2 of 3 periods)
              eu-1/b  back from r8 to r6, 4 of 6 boxes
          wave-1/az-3     r8   rolled back   3s ago to r6: alarm Frontend_OneBox_High_Severity in
                                             production/eu-1 (fault rate 12.5 % > 1 % in 2 of 3 periods)
          wave-2/one-box  -    free          nothing has come here yet
              left out  us-1 still runs r6: skipped by bob: a cable is cut (skip 3)

        there are more pipelines: tidegate status --after gateway
    "#]]
    .assert_eq(&shown);
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(crate::text::WIDTH), "{widest:?}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn a_server_without_anything_says_so() {
    let value = json!({"version": 1, "now": NOW, "troubles": [], "organisation": {"name": null, "alarms": []}, "teams": [], "pipelines": [], "next": null});
    let shown = status(&serde_json::from_value(value).unwrap(), Paint::NONE);
    expect![[r#"
        (no organisation applied yet)  2023-11-14T22:13:20.000Z
    "#]]
    .assert_eq(&shown);
}

#[test]
fn why_says_where_the_commit_is() {
    let value = json!({"version": 1, "commits": [{
        "pipeline": "frontend", "commit": commit('b'), "subject": "warm the cache", "source": "code",
        "text": "it is on its way in r7", "position": {"on-its-way": {"release": 7}},
        "steps": [
            {"step": "beta/az-1", "text": "passed with r7", "position": {"passed": {"release": 7}}},
            {"step": "wave-1/one-box", "text": "r7 waits: the organisation's alarm large-scale-event is raised by root: the \
                network of eu-1 loses packets", "position": {"waiting": {"release": 7, "reasons": []}}},
            {"step": "wave-2/one-box", "text": "not here yet", "position": "not-yet"},
        ],
    }]});
    let shown = why(&serde_json::from_value(value).unwrap(), Paint::NONE);
    expect![[r#"
        bbbbbbbbbb "warm the cache"  in frontend, source code
          it is on its way in r7
          beta/az-1       passed with r7
          wave-1/one-box  r7 waits: the organisation's alarm large-scale-event is raised by root: the
                          network of eu-1 loses packets
          wave-2/one-box  not here yet
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_fact_is_one_line() {
    let value = json!({
        "version": 1, "position": 7, "aggregate": "pipeline/frontend", "seq": 3, "at": NOW, "by": {"user": "alice"},
        "text": "hold 1 placed by alice: audit", "fact": {"pipeline": {"hold-lifted": {"number": 1, "by": {"user": "alice"}}}},
    });
    let fact: LogEntry = serde_json::from_value(value).unwrap();
    let shown = entry(&fact, Moment::Day, Paint::NONE) + &entry(&fact, Moment::Time, Paint::NONE);
    expect![[r#"
        2023-11-14 22:13:20  frontend          hold 1 placed by alice: audit  [alice]
        22:13:20.000  frontend          hold 1 placed by alice: audit  [alice]
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_refusal_shows_the_line() {
    let value = json!({
        "code": "TG008", "message": "the definition is refused: 1 finding",
        "hint": "mend what the findings say and apply it again; nothing was changed",
        "findings": [{"code": "TG103", "pipeline": null, "place": "/stages/0/bakes", "message": "unknown field 'bakes'",
            "hint": "did you mean \"bake\"?",
            "excerpt": {"line": 12, "column": 3, "text": "  \"bakes\": {}", "mark_at": 2, "mark_len": 7}}],
    });
    let shown = crate::error::render(&serde_json::from_value(value).unwrap(), &["frontend.json".to_owned()]);
    expect![[r#"
        tidegate: TG008: the definition is refused: 1 finding

        TG103: unknown field 'bakes'
          at frontend.json:12:3 (/stages/0/bakes)
            12 |   "bakes": {}
               |   ^^^^^^^
          hint: did you mean "bake"?

        hint: mend what the findings say and apply it again; nothing was changed
    "#]]
    .assert_eq(&shown);
}
