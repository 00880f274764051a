//! The monitoring loop: asks the fleet and the canaries what they saw, lets [`tidegate_workers::monitor`] evaluate every
//! closed second in order, and tells the teams which alarms changed and the pipelines what was watched.

use super::Hands;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::alarm::AlarmName;
use tidegate_core::causes;
use tidegate_core::decision::Event;
use tidegate_core::definition::EngineDef;
use tidegate_core::engine::Observation;
use tidegate_core::ids::{EnvironmentId, PipelineId, RegionId, Role, ServiceId, TeamId};
use tidegate_core::pipeline::{Grant, Pipeline, PipelineEvent, Work};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Team, TeamEvent};
use tidegate_core::units::Timestamp;
use tidegate_fleet::protocol::{EndpointKey, MetricsPage, SetEndpoint};
use tidegate_workers::canary::{CanaryCell, CanaryKey, CanaryTarget};
use tidegate_workers::monitor::{Found, KEPT_SECONDS, Monitor, Standing};
use tokio_util::sync::CancellationToken;

/// How often the fleet is asked for closed seconds. A second that makes an alarm fire is acted on within this and the time
/// of two commits.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Canaries follow definitions and endpoints this often.
const CANARIES_EVERY: i64 = 2;

struct Watcher {
    monitor: Monitor,
    standing: Standing,
    /// Up to where (exclusive) seconds were evaluated.
    evaluated: i64,
    /// Since when a pipeline's Region has been watched without a gap, up to where it was granted.
    granted: BTreeMap<(PipelineId, Scope), i64>,
    last_blind: BTreeMap<(TeamId, Scope), BTreeSet<AlarmName>>,
    canaries_at: i64,
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut watcher = Watcher::new(begin(&hands).await);
    while !stop.is_cancelled() {
        if let Err(why) = watcher.round(&hands).await {
            tracing::warn!("monitoring is blind: {why}");
            // What is not watched is not granted: the intervals begin anew.
            watcher.granted.clear();
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

/// Where evaluation begins: with the earliest release that is under way, so that what happened while the server was down
/// is evaluated before anything goes on.
async fn begin(hands: &Arc<Hands>) -> i64 {
    let now = hands.runtime.now().0 / 1_000;
    let mut first = now;
    for id in hands.blocking(|h| h.runtime.pipelines()).await.unwrap_or_default() {
        let Ok(Some(pipeline)) = hands.runtime.pipeline(&id) else { continue };
        for state in pipeline.steps.values() {
            let since = match &state.work {
                Work::Baking { clock, .. } => clock.regions.values().map(|c| c.until).min(),
                other => other.under_way().map(|(_, entered)| entered),
            };
            first = since.map_or(first, |at| first.min(at.0 / 1_000));
        }
    }
    first.max(now - KEPT_SECONDS)
}

impl Watcher {
    fn new(evaluated: i64) -> Watcher {
        Watcher {
            monitor: Monitor::default(),
            standing: Standing::default(),
            evaluated,
            granted: BTreeMap::new(),
            last_blind: BTreeMap::new(),
            canaries_at: 0,
        }
    }

    /// The newest second that was taken: everything after it is asked for. Alarms look back further than the first second
    /// that is evaluated.
    fn taken(&self) -> i64 {
        match self.monitor.complete_until() {
            0 => self.evaluated - KEPT_SECONDS,
            until => until - 1,
        }
    }

    /// Takes what came after [`Watcher::taken`]; whether there is anything new to be evaluated. The fleet's page reaches up to
    /// and with its second, which has ended when it is told; the monitor's end is the first second that is still open. A page
    /// has an end, so after a restart the first ones may well end before the first second that is evaluated.
    fn take(&mut self, page: &MetricsPage, mut canaries: Vec<CanaryCell>) -> bool {
        if page.complete_until <= self.taken() {
            return false;
        }
        let until = page.complete_until + 1;
        // Canary runs of seconds that are not closed for the fleet yet come with the next round.
        canaries.retain(|cell| cell.second < until);
        self.monitor.take_canaries(&canaries);
        self.monitor.take_metrics(&page.cells, &page.unrouted, until);
        until > self.evaluated
    }

    async fn round(&mut self, hands: &Arc<Hands>) -> Result<(), String> {
        let taken = self.taken();
        let page: MetricsPage = hands.engines.fleet.metrics(taken).await.map_err(|e| causes(&e))?;
        if !self.take(&page, hands.canaries.cells_after(taken)) {
            return Ok(());
        }
        let slots = hands.engines.fleet.slots().await.map_err(|e| causes(&e))?;
        self.standing = standing(&slots.observations);
        let teams = hands.blocking(|h| h.runtime.teams()).await.map_err(|e| causes(&e))?;
        let until = self.monitor.complete_until();
        if until >= self.canaries_at {
            self.canaries_at = until + CANARIES_EVERY;
            set_canaries(hands, &teams, &self.standing).await?;
        }
        let baking = hands.blocking(bakes).await;
        for end in self.evaluated + 1..=until {
            for team in &teams {
                self.evaluate(hands, team, baking.get(team), end).await?;
            }
        }
        self.evaluated = until;
        self.grant(hands, until).await;
        Ok(())
    }

    /// Tells the team which alarms are in another state than it has recorded, wherever it has boxes or something bakes.
    async fn evaluate(
        &mut self,
        hands: &Arc<Hands>,
        id: &TeamId,
        baking: Option<&BTreeSet<Scope>>,
        end: i64,
    ) -> Result<(), String> {
        let Ok(team) = hands.runtime.team(id) else { return Ok(()) };
        let mut scopes = scopes(&team, &self.standing);
        scopes.extend(baking.into_iter().flatten().cloned());
        for scope in scopes {
            let Found { at, reports, blind, .. } = self.monitor.evaluate(&team, &scope, end, &self.standing);
            self.last_blind.insert((id.clone(), scope.clone()), blind);
            let changed: BTreeMap<_, _> = reports
                .into_iter()
                .filter(|(name, r)| {
                    team.scopes.get(&scope).and_then(|a| a.get(name)).is_none_or(|s| s.state != r.state)
                })
                .collect();
            if !changed.is_empty() {
                let event = TeamEvent::Evaluated { scope, at, alarms: changed };
                hands.submit(Event::Team(id.clone(), event)).await.map_err(|e| causes(&e))?;
            }
        }
        Ok(())
    }

    /// Grants watched time to every pipeline that bakes.
    async fn grant(&mut self, hands: &Arc<Hands>, until: i64) {
        for id in hands.blocking(|h| h.runtime.pipelines()).await.unwrap_or_default() {
            let Ok(Some(pipeline)) = hands.runtime.pipeline(&id) else { continue };
            let baking = baking(&pipeline);
            self.granted.retain(|(p, scope), _| *p != id || baking.contains(scope));
            let (Some(team), Some(definition)) = (&pipeline.team, &pipeline.definition) else { continue };
            let service = &definition.service;
            let mut grants = Vec::new();
            for scope in baking {
                let from = *self.granted.get(&(id.clone(), scope.clone())).unwrap_or(&(until - 1));
                self.granted.insert((id.clone(), scope.clone()), until);
                if from >= until {
                    continue;
                }
                grants.push(Grant {
                    from: Timestamp(from * 1_000),
                    until: Timestamp(until * 1_000),
                    blind: self.blind(hands, team, service, &scope),
                    requests: self.monitor.requests(service, &scope, from, until),
                    scope,
                });
            }
            if !grants.is_empty() {
                hands.tell(&id, PipelineEvent::Watched { grants }).await;
            }
        }
    }

    /// Alarms without data. A service that has run boxes in the Region and reports nothing at all there is blind as a whole;
    /// one that is moved by its team's commands alone has none of tidegate's metrics anywhere, and is watched by its team's
    /// other alarms and by hand.
    fn blind(&self, hands: &Hands, team: &TeamId, service: &ServiceId, scope: &Scope) -> BTreeSet<AlarmName> {
        let mut blind = self.last_blind.get(&(team.clone(), scope.clone())).cloned().unwrap_or_default();
        if !self.standing.services.contains(&(service.clone(), scope.clone()))
            && has_run(hands, service, scope)
        {
            let definition = hands
                .runtime
                .team(team)
                .ok()
                .and_then(|t| t.services.iter().find(|s| &s.name == service).cloned());
            blind.extend(definition.iter().flat_map(tidegate_core::team::metric_alarms).map(|a| a.name));
        }
        blind
    }
}

/// Whether some pipeline of the service runs, or has run, boxes of the fleet in the Region.
fn has_run(hands: &Hands, service: &ServiceId, scope: &Scope) -> bool {
    let runs = |pipeline: &Pipeline| {
        let definition = pipeline.definition.as_deref().filter(|d| &d.service == service);
        definition.is_some_and(|d| matches!(d.run.engine, EngineDef::Process(_)))
            && pipeline
                .slots
                .iter()
                .any(|(target, slot)| &Scope::of(target) == scope && !slot.history.is_empty())
    };
    let all = hands.runtime.pipelines().unwrap_or_default();
    // One that cannot be read may well run boxes.
    all.iter().any(|id| hands.runtime.pipeline(id).map_or(true, |p| p.is_some_and(|p| runs(&p))))
}

/// Where each team's pipelines bake at present.
fn bakes(hands: &Hands) -> BTreeMap<TeamId, BTreeSet<Scope>> {
    let mut all: BTreeMap<TeamId, BTreeSet<Scope>> = BTreeMap::new();
    for id in hands.runtime.pipelines().unwrap_or_default() {
        let Ok(Some(pipeline)) = hands.runtime.pipeline(&id) else { continue };
        if let Some(team) = &pipeline.team {
            all.entry(team.clone()).or_default().extend(baking(&pipeline));
        }
    }
    all
}

fn baking(pipeline: &Pipeline) -> BTreeSet<Scope> {
    let mut scopes = BTreeSet::new();
    for (stage, step) in pipeline.plan.steps() {
        if let Some(Work::Baking { clock, .. }) = pipeline.steps.get(&step.id).map(|s| &s.work) {
            let environment = || stage.environment.clone();
            scopes.extend(
                clock.regions.keys().map(|r| Scope { environment: environment(), region: r.clone() }),
            );
        }
    }
    scopes
}

/// Where boxes stand, whether they report or not: silence is blindness, not absence.
fn standing(slots: &[Observation]) -> Standing {
    let mut standing = Standing::default();
    for slot in slots.iter().filter(|s| !s.boxes.is_empty()) {
        let target = &slot.slot.target;
        let place = (target.service.clone(), Scope::of(target));
        if target.role == Role::OneBox {
            standing.one_boxes.insert(place.clone());
        }
        standing.services.insert(place);
    }
    standing
}

/// Every Region in which the team has boxes.
fn scopes(team: &Team, standing: &Standing) -> BTreeSet<Scope> {
    let own = |service: &ServiceId| team.services.iter().any(|s| &s.name == service);
    standing.services.iter().filter(|(service, _)| own(service)).map(|(_, scope)| scope.clone()).collect()
}

/// Runs every service's canaries against each of its endpoints that has boxes.
async fn set_canaries(hands: &Arc<Hands>, teams: &[TeamId], standing: &Standing) -> Result<(), String> {
    let mut targets = BTreeMap::new();
    for id in teams {
        let Ok(team) = hands.runtime.team(id) else { continue };
        for service in team.services.iter().filter(|s| !s.canaries.is_empty()) {
            for (_, scope) in standing.services.iter().filter(|(name, _)| *name == service.name) {
                let (environment, region): (EnvironmentId, RegionId) =
                    (scope.environment.clone(), scope.region.clone());
                let key = CanaryKey { service: service.name.clone(), environment, region };
                let endpoint = EndpointKey {
                    service: key.service.clone(),
                    environment: key.environment.clone(),
                    region: key.region.clone(),
                };
                let set = SetEndpoint { endpoint, listen: None };
                let endpoint = hands.engines.fleet.set_endpoint(&set).await.map_err(|e| causes(&e))?.url;
                targets.insert(key, CanaryTarget { endpoint, canaries: service.canaries.clone() });
            }
        }
    }
    hands.canaries.set(targets).map_err(|e| causes(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::ids::RunSpecDigest;
    use tidegate_core::metrics::{ApiCell, Cell};

    const START: i64 = 1_700_000_000;

    fn cell(second: i64) -> Cell {
        let counted = ApiCell { requests: 10, ..ApiCell::default() };
        Cell {
            second,
            target: "shop/production/eu-1/a/main".parse().unwrap(),
            box_id: "1".to_owned(),
            run_spec: RunSpecDigest::new("a".repeat(64)).unwrap(),
            configuration: Vec::new(),
            apis: [("GET /".to_owned(), counted)].into(),
            cpu_millicores: 0,
            memory_kib: 0,
            disk_kib: 0,
            log_errors: 0,
            healthy: true,
        }
    }

    /// What a fleet answers whose newest closed second is this one.
    fn page(after: i64, newest: i64) -> MetricsPage {
        let cells = (START..=newest).filter(|second| *second > after).map(cell).collect();
        MetricsPage { cells, unrouted: Vec::new(), complete_until: newest.max(0) }
    }

    #[test]
    fn pages_that_end_before_what_is_evaluated_lead_to_those_that_do_not() {
        let mut watcher = Watcher::new(START + 100);
        let mut pages = 0;
        // The fleet tells at most forty seconds at once.
        while !watcher.take(&page(watcher.taken().max(START - 1), START + 40 * (pages + 1)), Vec::new()) {
            pages += 1;
            assert!(pages < 10, "it asks for the same seconds again and again");
        }
        assert_eq!(watcher.monitor.complete_until(), START + 121);
    }

    #[test]
    fn a_closed_second_is_taken_at_once_and_once() {
        let mut watcher = Watcher::new(START);
        assert!(!watcher.take(&page(watcher.taken(), 0), Vec::new()), "the fleet has closed no second yet");
        let (service, scope) = ("shop".parse().unwrap(), "production/eu-1".to_owned().try_into().unwrap());
        for newest in START..START + 5 {
            assert!(watcher.take(&page(watcher.taken(), newest), Vec::new()));
            assert_eq!(watcher.monitor.complete_until(), newest + 1);
            let requests = watcher.monitor.requests(&service, &scope, START, newest + 1);
            let counted: u64 = requests.values().flat_map(BTreeMap::values).sum();
            assert_eq!(counted, 10 * u64::try_from(newest + 1 - START).unwrap());
            watcher.evaluated = newest + 1;
            assert!(!watcher.take(&page(watcher.taken(), newest), Vec::new()), "nothing new");
        }
    }
}
