//! What a definition is told before it is taken (X7).

use crate::scenario::{organisation_json, pipeline_json};
use serde_json::{Value, json};
use tidegate_core::definition::{OrganisationDef, PipelineDef};
use tidegate_core::lint::{self, Finding};
use tidegate_core::plan::plan;

fn organisation(value: &Value) -> OrganisationDef {
    serde_json::from_value(value.clone()).unwrap()
}

fn findings(pipeline: &Value) -> Vec<Finding> {
    let definition: PipelineDef = serde_json::from_value(pipeline.clone()).unwrap();
    lint::pipeline(&definition, &organisation(&organisation_json()))
}

fn refused(pipeline: &Value) -> String {
    serde_json::from_value::<PipelineDef>(pipeline.clone()).unwrap_err().to_string()
}

fn by_hand(steps: &Value) -> Value {
    let mut all = pipeline_json("frontend", "frontend");
    all["stages"][1]["waves"] = json!([{"regions": ["north"]}, {"regions": ["east"], "steps": steps}]);
    all
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let mut typo = pipeline_json("frontend", "frontend");
    typo["stages"][0]["onebox"] = json!(true);
    assert!(refused(&typo).contains("unknown field `onebox`"), "{}", refused(&typo));
}

#[test]
fn a_bake_of_minus_one_is_refused() {
    let mut negative = pipeline_json("frontend", "frontend");
    negative["stages"][0]["bake"] = json!({"one_box": "-1h"});
    assert!(refused(&negative).contains("'-1h' is not a span of time"), "{}", refused(&negative));
    negative["stages"][0]["bake"] = json!({"one_box": -1});
    assert!(!refused(&negative).is_empty());
}

#[test]
fn a_bad_expression_is_refused_and_an_unknown_name_is_found() {
    let mut bad = organisation_json();
    bad["teams"][0]["aggregate"] = json!("ALARM(Frontend_High_Severity) AND");
    assert!(serde_json::from_value::<OrganisationDef>(bad.clone()).is_err());
    bad["teams"][0]["aggregate"] = json!("ALARM(Fronted_High_Severity)");
    let found = lint::organisation(&organisation(&bad));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].code.as_str(), found[0].place.as_str()), ("TG112", "/teams/0/aggregate"));
}

#[test]
fn two_azs_of_a_region_in_one_step_are_found_with_the_counterexample() {
    let found = findings(&by_hand(&json!([["east/a", "east/b"], ["east/c"]])));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "TG101 at /stages/1/waves/1/steps/0: this step deploys to east/a and east/b at the same time (never two AZs of \
          one Region at once: put them in different steps (requirement P1))"
        ]
    );
}

#[test]
fn an_az_in_no_step_or_in_two_is_found() {
    let found = findings(&by_hand(&json!([["east/a"], ["east/c"]])));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].code.as_str(), found[0].message.as_str()), ("TG138", "'east/b' is in no step"));
    let found = findings(&by_hand(&json!([["east/a"], ["east/b"], ["east/c"], ["east/b"]])));
    assert_eq!(found.iter().map(|f| f.code.as_str()).collect::<Vec<_>>(), ["TG137"]);
    assert_eq!(findings(&by_hand(&json!([["east/c"], ["east/a"], ["east/b"]]))), []);
}

#[test]
fn an_alarm_that_looks_back_further_than_metrics_are_kept_is_found() {
    let with = |period: &str| {
        let mut all = organisation_json();
        all["services"][0]["alarms"] = json!([{
            "name": "Frontend_Slow", "metric": {"latency": {"percentile": "p99"}}, "threshold": 500,
            "period": period, "datapoints": "2 of 3"
        }]);
        lint::organisation(&organisation(&all))
    };
    assert_eq!(with("3m"), [], "five periods of three minutes are kept");
    let found = with("4m");
    assert_eq!((found[0].code.as_str(), found[0].place.as_str()), ("TG139", "/services/0/alarms/0/period"));
}

#[test]
fn a_page_goes_to_an_address_that_can_be_called() {
    let found = |url: &str| {
        let mut definition = organisation_json();
        definition["teams"][0]["pages"] = json!([{"webhook": url}]);
        let found = lint::organisation(&organisation(&definition));
        found.iter().map(|f| format!("{} {}", f.code, f.place)).collect::<Vec<_>>()
    };
    for good in ["http://127.0.0.1:9000/page", "https://hooks.example.test?key=1"] {
        assert_eq!(found(good), Vec::<String>::new(), "{good}");
    }
    for bad in ["", "hooks.example.test", "https://", "http:///page", "ftp://a.test/", "https://a test/"] {
        assert_eq!(found(bad), ["TG140 /teams/0/pages/0/webhook"], "{bad}");
    }
}

#[test]
fn configuration_has_a_path_and_a_limit_and_runs_nothing() {
    let found = |run: serde_json::Value| {
        let mut definition = crate::scenario::pipeline_json("flags", "frontend");
        definition["run"] = run;
        let definition = serde_json::from_value(definition).unwrap();
        let found = lint::pipeline(&definition, &organisation(&organisation_json()));
        found.iter().map(|f| format!("{} {}", f.code, f.place)).collect::<Vec<_>>()
    };
    let good = json!({"engine": {"configuration": {"reload": "/reload"}}});
    assert_eq!(found(good), Vec::<String>::new());
    let bad = json!({
        "engine": {"configuration": {"reload": "reload", "timeout": "0s"}},
        "environment": {"A": "b"}, "calls": ["backend"]
    });
    let place = "/run/engine/configuration";
    let expected = [
        format!("TG114 {place}/reload"),
        format!("TG126 {place}/timeout"),
        "TG141 /run/environment".to_owned(),
        "TG141 /run/calls".to_owned(),
    ];
    assert_eq!(found(bad), expected);
}

#[test]
fn definitions_are_one_unit_in_one_region_and_run_nothing() {
    let definition = |engine: Value, stages: Value| {
        let mut definition = pipeline_json("pipelines", "frontend");
        definition["run"] = json!({"engine": {"definitions": engine}});
        definition["stages"] = stages;
        definition
    };
    let places = |definition: &Value| {
        findings(definition).iter().map(|f| format!("{} {}", f.code, f.place)).collect::<Vec<_>>()
    };
    let stage = json!({"environment": "production", "regions": ["east"], "boxes_per_az": 1});
    let good = definition(json!({}), json!([stage]));
    assert_eq!(places(&good), Vec::<String>::new(), "without a one-box: the server is one");
    let good = serde_json::from_value(good).unwrap();
    let targets: Vec<String> =
        plan(&good, &organisation(&organisation_json())).targets().map(|t| t.id.to_string()).collect();
    assert_eq!(targets, ["frontend/production/east/a/main"], "one unit, however many AZs the Region has");

    let wide = json!({"environment": "production", "one_box": true, "bake": {"data": [{"requests": 1}]}});
    let mut bad = definition(json!({"folder": "../pipelines"}), json!([wide]));
    bad["run"]["environment"] = json!({"A": "b"});
    let expected = ["TG125 /run/engine/definitions/folder", "TG141 /run/environment"].map(str::to_owned);
    let one = ["regions", "one_box", "boxes_per_az", "bake/data"].map(|f| format!("TG142 /stages/0/{f}"));
    assert_eq!(places(&bad), [&expected[..], &one].concat());
    let twice = definition(json!({}), json!([stage, {"environment": "beta", "regions": ["east"]}]));
    assert_eq!(places(&twice), ["TG142 /stages"]);
}

#[test]
fn alarms_from_outside_have_names_of_their_own_and_a_time_to_live() {
    let mut all = organisation_json();
    let outside = |name: &str, ttl: &str| json!({"name": name, "ttl": ttl});
    all["services"][0]["outside"] = json!([
        outside("Frontend_Payments", "5m"),
        outside("Frontend_High_Fault_Rate", "5m"),
        outside("Frontend_High_Severity", "5m"),
        outside("Quick", "10ms"),
        outside("Slow", "25h"),
    ]);
    all["services"][1]["outside"] = json!([outside("Frontend_Payments", "5m")]);
    let found = lint::organisation(&organisation(&all));
    let told: Vec<(&str, &str)> = found.iter().map(|f| (f.code.as_str(), f.place.as_str())).collect();
    assert_eq!(
        told,
        [
            ("TG110", "/services/0/outside/1/name"),
            ("TG110", "/services/0/outside/2/name"),
            ("TG110", "/services/1/outside/0/name"),
            ("TG146", "/services/0/outside/3/ttl"),
            ("TG146", "/services/0/outside/4/ttl"),
        ]
    );
    // They may be parts of the aggregate.
    all["services"][0]["outside"] = json!([outside("Frontend_Payments", "5m")]);
    all["services"][1]["outside"] = json!([]);
    all["teams"][0]["aggregate"] = json!("ALARM(Frontend_Payments) AND ALARM(Frontend_High_Severity)");
    assert_eq!(lint::organisation(&organisation(&all)), []);
}

#[test]
fn a_query_needs_somebody_to_ask_and_known_placeholders() {
    let mut all = organisation_json();
    let asks = |query: &str| json!([{"name": "Q", "metric": {"promql": {"query": query}}, "threshold": 1}]);
    let found = |all: &Value| -> Vec<String> {
        lint::organisation(&organisation(all))
            .into_iter()
            .map(|f| format!("{} {}", f.code, f.message))
            .collect()
    };
    all["services"][0]["alarms"] =
        asks(r#"label_replace(x{r="$region", p=~"a$"}, "to", "$1", "from", "(.*)")"#);
    assert_eq!(found(&all), ["TG147 there is no Prometheus that could be asked"]);
    all["teams"][0]["prometheus"] = json!({"url": "prometheus:9090"});
    assert_eq!(found(&all), ["TG140 this is no address that can be called"]);
    all["teams"][0]["prometheus"] = json!({"url": "http://prometheus:9090", "secret": "prometheus"});
    assert_eq!(found(&all), Vec::<String>::new());
    all["services"][0]["alarms"] = asks("up{region=\"$Region\"}");
    assert_eq!(found(&all), ["TG147 '$Region' stands for nothing"]);
    all["services"][0]["alarms"] = asks(" ");
    assert_eq!(found(&all), ["TG147 a query has 1 to 4096 bytes"]);
}
