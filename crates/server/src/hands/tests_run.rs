//! Performs a step's tests against the environment's endpoints, Region by Region.

use super::Hands;
use super::dispatch::Performed;
use super::turns;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_core::causes;
use tidegate_core::decision::{EffectId, TestOrder};
use tidegate_core::ids::{EnvironmentId, RegionId, ServiceId};
use tidegate_core::pipeline::PipelineEvent;
use tidegate_fleet::protocol::{EndpointKey, SetEndpoint};
use tidegate_workers::test_runner::{TestResult, TestRun, run_test};

pub(super) async fn perform(hands: &Arc<Hands>, id: &EffectId, order: &TestOrder) -> Performed {
    let Some(_place) = turns::place(hands, &hands.test_places, id, &order.pipeline).await else {
        return Performed::Failed("the server is stopping".to_owned());
    };
    let result = match run_all(hands, order).await {
        Ok(result) => result,
        Err(why) => return Performed::Failed(why),
    };
    let event = PipelineEvent::TestsEnded { effect: id.clone(), result };
    match hands.tell_result(id, &order.pipeline, event).await {
        Ok(()) => Performed::Told,
        Err(error) => Performed::Failed(causes(&error)),
    }
}

/// The tests' verdict; an error is the machine's and no verdict.
async fn run_all(hands: &Arc<Hands>, order: &TestOrder) -> Result<Result<(), String>, String> {
    for region in &order.regions {
        let mut endpoints = BTreeMap::new();
        let own = (order.service.clone(), order.environment.clone());
        let called =
            order.endpoints.iter().map(|(service, environment)| (service.clone(), environment.clone()));
        for (service, environment) in called.chain([own]) {
            let url = endpoint(hands, &service, &environment, region).await?;
            endpoints.insert(service, url);
        }
        for spec in &order.tests {
            let log = hands.dirs.logs.join("tests").join(order.pipeline.as_str());
            std::fs::create_dir_all(&log).map_err(|e| format!("cannot make {}: {e}", log.display()))?;
            let file =
                format!("{}-{}-{region}-{}.log", order.release, order.step.0.replace('/', "-"), spec.name);
            let run = TestRun {
                spec: spec.clone(),
                package: order.package.clone(),
                service: order.service.clone(),
                environment: order.environment.clone(),
                region: region.clone(),
                endpoints: endpoints.clone(),
                log: log.join(file.replace(['/', '\0'], "-")),
            };
            let (store, keys, temp) = (&hands.packages, &hands.trusted_keys, &hands.dirs.tests);
            let never = std::future::pending();
            let told = |lines: &[String]| format!("test '{}' in {region}:\n{}", spec.name, lines.join("\n"));
            match run_test(store, keys, temp, &run, never).await.map_err(|e| causes(&e))? {
                TestResult::Passed => {}
                TestResult::Failed { exit, last_lines } => {
                    return Ok(Err(format!("{exit}; {}", told(&last_lines))));
                }
                TestResult::TimedOut { last_lines } => {
                    return Ok(Err(format!("longer than {}; {}", spec.time_limit, told(&last_lines))));
                }
            }
        }
    }
    Ok(Ok(()))
}

async fn endpoint(
    hands: &Arc<Hands>,
    service: &ServiceId,
    environment: &EnvironmentId,
    region: &RegionId,
) -> Result<String, String> {
    let endpoint =
        EndpointKey { service: service.clone(), environment: environment.clone(), region: region.clone() };
    let set = SetEndpoint { endpoint, listen: None };
    hands.engines.fleet.set_endpoint(&set).await.map(|e| e.url).map_err(|e| causes(&e))
}
