//! The monitoring loop: asks the fleet and the canaries what they saw, lets [`tidegate_workers::monitor`] evaluate every
//! closed second in order, and tells the teams which alarms changed and the pipelines what was watched.

use super::Hands;
use super::overview::{Baking, Summary};
use super::prometheus;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidegate_core::alarm::{AlarmName, Metric, MetricAlarm};
use tidegate_core::causes;
use tidegate_core::decision::Event;
use tidegate_core::engine::Observation;
use tidegate_core::ids::{EnvironmentId, PipelineId, RegionId, Role, ServiceId, TeamId};
use tidegate_core::pipeline::{Grant, PipelineEvent, Work};
use tidegate_core::scope::Scope;
use tidegate_core::team::{Team, TeamEvent};
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::protocol::{EndpointKey, MetricsPage, SetEndpoint};
use tidegate_workers::canary::{CanaryCell, CanaryKey, CanaryTarget};
use tidegate_workers::monitor::{Found, KEPT_SECONDS, Monitor, Standing};
use tokio_util::sync::CancellationToken;

/// How often the fleet is asked for closed seconds. A second that makes an alarm fire is acted on within this and the time
/// of two commits.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Canaries follow definitions and endpoints this often.
const CANARIES_EVERY: i64 = 2;
/// When an endpoint that cannot listen is looked at again, at the latest.
const ENDPOINT_AGAIN: Span = Span::seconds(30);
/// Watched time is granted about so many times in a bake, ...
const GRANTS_PER_BAKE: u64 = 100;
/// ... and at least this often.
const GRANT_MAX: Span = Span::seconds(20);
/// Seconds that come later than this after those before were not watched as they passed, and are not granted.
const GAP_MAX_S: i64 = 5;

struct Watcher {
    monitor: Monitor,
    standing: Standing,
    /// Up to where (exclusive) seconds were evaluated.
    evaluated: i64,
    /// What was watched since the last grant.
    pending: BTreeMap<(PipelineId, Scope), Pending>,
    last_blind: BTreeMap<(TeamId, Scope), BTreeSet<AlarmName>>,
    canaries_at: i64,
}

pub(super) async fn run(hands: Arc<Hands>, stop: CancellationToken) {
    let mut watcher = Watcher::new(begin(&hands).await);
    while !stop.is_cancelled() {
        if let Err(why) = watcher.round(&hands).await {
            tracing::warn!("monitoring is blind: {why}");
            // What is not watched is not granted: the intervals begin anew.
            watcher.pending.values_mut().for_each(|pending| pending.closed = true);
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
            pending: BTreeMap::new(),
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

    /// The ends of the seconds that are evaluated next. Of a fleet that was silent for longer, those that are kept no more are
    /// left out: nothing is known of them, and what alarms say now looks back no further.
    fn due(&self, until: i64) -> std::ops::RangeInclusive<i64> {
        self.evaluated.max(until - KEPT_SECONDS) + 1..=until
    }

    async fn round(&mut self, hands: &Arc<Hands>) -> Result<(), String> {
        let taken = self.taken();
        prometheus::take(hands, &mut self.monitor);
        let page: MetricsPage = hands.engines.fleet.metrics(taken).await.map_err(|e| causes(&e))?;
        let more = page.complete_until > taken;
        let is_new = self.take(&page, hands.canaries.cells_after(taken));
        if more {
            hands.served.take(&page.cells);
        }
        if !is_new {
            return Ok(());
        }
        let slots = hands.engines.fleet.slots().await.map_err(|e| causes(&e))?;
        self.standing = standing(&slots.observations);
        let placed = hands.overview(placed).await.map_err(|e| causes(&e))?;
        self.standing.placed = placed.into_iter().chain(self.standing.services.iter().cloned()).collect();
        let teams = hands.blocking(|h| h.runtime.teams()).await.map_err(|e| causes(&e))?;
        let until = self.monitor.complete_until();
        if until >= self.canaries_at {
            self.canaries_at = until + CANARIES_EVERY;
            tell_of_endpoints(hands).await?;
            set_canaries(hands, &teams, &self.standing).await?;
        }
        let baking = hands.overview(bakes).await.map_err(|e| causes(&e))?;
        let mut scopes_of: BTreeMap<TeamId, BTreeSet<Scope>> = BTreeMap::new();
        for bakes in &baking {
            scopes_of.entry(bakes.team.clone()).or_default().insert(bakes.scope.clone());
        }
        for team in &teams {
            prometheus::ask(hands, &mut self.monitor, team, until, &self.standing).await;
        }
        // What is blind in any of these seconds is blind in all of them.
        self.last_blind.clear();
        hands.telemetry.watched(until);
        for end in self.due(until) {
            for team in &teams {
                self.evaluate(hands, team, scopes_of.get(team), end).await?;
            }
        }
        self.evaluated = until;
        // What the alarms of these seconds have ended bakes no more.
        let baking = hands.overview(bakes).await.map_err(|e| causes(&e))?;
        self.grant(hands, &baking, until).await;
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
            self.last_blind.entry((id.clone(), scope.clone())).or_default().extend(blind);
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

    /// Grants watched time to every pipeline that bakes: when a bake may be over, when something became blind or sees again,
    /// and every so often.
    async fn grant(&mut self, hands: &Arc<Hands>, baking: &[Bakes], until: i64) {
        let key = |bakes: &Bakes| (bakes.pipeline.clone(), bakes.scope.clone());
        let keys: BTreeSet<(PipelineId, Scope)> = baking.iter().map(key).collect();
        self.pending.retain(|key, _| keys.contains(key));
        let mut grants: BTreeMap<&PipelineId, Vec<Grant>> = BTreeMap::new();
        for bakes in baking {
            let blind = self.blind(hands, bakes);
            let begin = until - 1;
            let pending =
                self.pending.entry(key(bakes)).or_insert_with(|| Pending::new(begin, blind.clone()));
            let mut ended = Vec::new();
            if pending.closed || until - pending.until > GAP_MAX_S {
                ended.push(std::mem::replace(pending, Pending::new(begin, blind)));
            } else if pending.blind != blind {
                let next = Pending::new(pending.until, blind);
                ended.push(std::mem::replace(pending, next));
            }
            pending.until = until;
            if pending.is_due(&bakes.baking) {
                let told = !pending.blind.is_empty();
                let next = Pending { told, ..Pending::new(until, pending.blind.clone()) };
                ended.push(std::mem::replace(pending, next));
            }
            for watched in ended.into_iter().filter(|p| p.from < p.until) {
                grants.entry(&bakes.pipeline).or_default().push(Grant {
                    from: Timestamp(watched.from * 1_000),
                    until: Timestamp(watched.until * 1_000),
                    blind: watched.blind,
                    requests: self.monitor.requests(
                        &bakes.service,
                        &bakes.scope,
                        watched.from,
                        watched.until,
                    ),
                    scope: bakes.scope.clone(),
                });
            }
        }
        for (pipeline, grants) in grants {
            hands.tell(pipeline, PipelineEvent::Watched { grants }).await;
        }
    }

    /// Alarms without data. A service that has run boxes in the Region and reports nothing at all there is blind as a whole;
    /// one that is moved by its team's commands alone has none of tidegate's metrics anywhere, and is watched by its team's
    /// other alarms and by hand.
    fn blind(&self, hands: &Hands, bakes: &Bakes) -> BTreeSet<AlarmName> {
        let Bakes { team, service, scope, .. } = bakes;
        let mut blind = self.last_blind.get(&(team.clone(), scope.clone())).cloned().unwrap_or_default();
        if bakes.has_run && !self.standing.services.contains(&(service.clone(), scope.clone())) {
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

/// A pipeline that bakes in a Region.
struct Bakes {
    pipeline: PipelineId,
    team: TeamId,
    service: ServiceId,
    scope: Scope,
    baking: Baking,
    /// Whether some pipeline of the service runs, or has run, boxes of the fleet there.
    has_run: bool,
}

fn bakes(all: &BTreeMap<PipelineId, Summary>) -> Vec<Bakes> {
    let mut found = Vec::new();
    let mut of_services: BTreeMap<&ServiceId, Vec<&Summary>> = BTreeMap::new();
    for (service, pipeline) in all.values().filter_map(|p| Some((p.service.as_ref()?, p))) {
        of_services.entry(service).or_default().push(pipeline);
    }
    for (id, pipeline) in all.iter().filter(|(_, pipeline)| !pipeline.baking.is_empty()) {
        let (Some(team), Some(service)) = (&pipeline.team, &pipeline.service) else { continue };
        for (scope, baking) in &pipeline.baking {
            found.push(Bakes {
                pipeline: id.clone(),
                team: team.clone(),
                service: service.clone(),
                scope: scope.clone(),
                baking: *baking,
                has_run: of_services
                    .get(service)
                    .is_some_and(|all| all.iter().any(|p| p.ran.contains(scope))),
            });
        }
    }
    found
}

/// Time of a pipeline's Region that was watched without a gap and is not granted yet, in seconds since 1970.
#[derive(Debug)]
struct Pending {
    from: i64,
    /// Exclusive.
    until: i64,
    /// The same alarms all the time.
    blind: BTreeSet<AlarmName>,
    /// People are told of the blindness already; it earns nothing, so more of the same can wait.
    told: bool,
    /// It goes on no more, because nobody could watch after it; it is granted with what is watched next.
    closed: bool,
}

impl Pending {
    fn new(at: i64, blind: BTreeSet<AlarmName>) -> Pending {
        Pending { from: at, until: at, blind, told: false, closed: false }
    }

    /// Each grant is a commit, so a long bake has few of them; the one that ends a bake is not put off.
    fn is_due(&self, baking: &Baking) -> bool {
        let pending = Span::seconds(u64::try_from(self.until - self.from).unwrap_or(0));
        if self.told {
            return pending >= GRANT_MAX;
        }
        let period = Span(baking.minimum.millis() / GRANTS_PER_BAKE).min(GRANT_MAX);
        let ends = baking.left > Span::ZERO && pending >= baking.left;
        pending >= period || ends
    }
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

/// Where anything of a service is deployed.
fn placed(all: &BTreeMap<PipelineId, Summary>) -> BTreeSet<(ServiceId, Scope)> {
    let of = all.values().filter_map(|p| p.service.as_ref().map(|service| (service, &p.placed)));
    of.flat_map(|(service, placed)| placed.iter().map(|at| (service.clone(), at.clone()))).collect()
}

/// Every Region in which the team has boxes, or anything that others than the fleet tell of.
pub(super) fn scopes(team: &Team, standing: &Standing) -> BTreeSet<Scope> {
    let own = |service: &ServiceId| team.services.iter().any(|s| &s.name == service);
    let told = |service: &ServiceId| {
        let asked = |a: &MetricAlarm| matches!(a.metric, Metric::Promql { .. });
        let mut own = team.services.iter().filter(|s| &s.name == service);
        own.any(|s| !s.outside.is_empty() || s.alarms.iter().any(asked))
    };
    let boxes = standing.services.iter().filter(|(service, _)| own(service));
    let others = standing.placed.iter().filter(|(service, _)| told(service));
    boxes.chain(others).map(|(_, scope)| scope.clone()).collect()
}

/// Tells people of endpoints that customers cannot call.
async fn tell_of_endpoints(hands: &Arc<Hands>) -> Result<(), String> {
    for endpoint in hands.engines.fleet.endpoints().await.map_err(|e| causes(&e))? {
        let EndpointKey { service, environment, region } = &endpoint.endpoint;
        let id = format!("endpoint {service}/{environment}/{region}");
        match &endpoint.trouble {
            None => hands.troubles.over(&id),
            Some(why) => {
                let what = format!(
                    "nobody can call {service} in {environment}/{region}: the fleet cannot listen on port {}",
                    endpoint.port
                );
                let now = hands.runtime.now();
                hands.troubles.failed(&id, what, why, now, now + ENDPOINT_AGAIN);
            }
        }
    }
    Ok(())
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
                let endpoint = hands.engines.fleet.set_endpoint(&set).await.map_err(|e| causes(&e))?;
                // Whoever listens there instead would answer for this service.
                if endpoint.trouble.is_none() {
                    let canaries = service.canaries.clone();
                    targets.insert(key, CanaryTarget { endpoint: endpoint.url, canaries });
                }
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
    fn after_an_hour_of_silence_only_what_is_kept_is_evaluated() {
        let mut watcher = Watcher::new(START);
        assert!(watcher.take(&page(watcher.taken().max(START - 1), START + 4), Vec::new()));
        assert_eq!(watcher.due(START + 5), START + 1..=START + 5);
        watcher.evaluated = START + 5;
        let back = START + 3_605;
        assert!(watcher.take(&page(back - 10, back - 1), Vec::new()));
        assert_eq!(watcher.due(back), back - KEPT_SECONDS + 1..=back);
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
