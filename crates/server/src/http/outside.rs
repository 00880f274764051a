//! Words on alarms from outside: a plain call for one alarm, and the webhook of an Alertmanager.

use super::extract::{Body, Caller, Text, parse};
use super::{Api, ApiError, act};
use crate::alertmanager::{self, ALERTS_MAX, Audience, Webhook};
use crate::auth::Rights;
use axum::Json;
use axum::extract::{Path, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tidegate_api::{AlertsTaken, Code, Done, ErrorAnswer, ReportRequest, VERSION};
use tidegate_core::alarm::{AlarmName, Word};
use tidegate_core::decision::{Event, Fact};
use tidegate_core::ids::TeamId;
use tidegate_core::scope::Scope;
use tidegate_core::team::{Team, TeamEvent, TeamFact};
use tidegate_core::units::{Span, Timestamp};
use tidegate_runtime::Runtime;

/// The largest body of an Alertmanager, in bytes.
pub(super) const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// A time that lies further ahead than clocks differ is a mistake.
const AHEAD_MAX: Span = Span::minutes(1);

/// The newest time that was heard of each alarm, also where it said so much the same that it was not kept: what is older than
/// that is old. It is in memory alone, so after a restart what was kept decides. Alarms and places are those of definitions.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<BTreeMap<(TeamId, Scope, AlarmName), Timestamp>>);

impl Newest {
    fn is_old(&self, about: &(TeamId, Scope, AlarmName), at: Timestamp) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(about).is_some_and(|newest| *newest >= at)
    }

    fn heard(&self, about: (TeamId, Scope, AlarmName), at: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = all.entry(about).or_insert(at);
        *newest = at.max(*newest);
    }
}

/// Says in which state an alarm from outside is. It counts for the alarm's time to live; after that it is INSUFFICIENT_DATA. Members and
/// reporters of the team may.
#[utoipa::path(put, path = "/v1/teams/{team}/alarms/{environment}/{region}/{alarm}", request_body = ReportRequest,
    security(("token" = [])),
    params(("team" = String, Path), ("environment" = String, Path), ("region" = String, Path), ("alarm" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 404, body = ErrorAnswer),
        (status = 409, body = ErrorAnswer), (status = 429, body = ErrorAnswer)))]
pub(super) async fn report(
    State(api): State<Api>,
    caller: Caller,
    Path((team, environment, region, alarm)): Path<(String, String, String, String)>,
    Body(request): Body<ReportRequest>,
) -> Result<Json<Done>, ApiError> {
    limited(&api, &caller)?;
    let team = TeamId::new(team)?;
    let scope = Scope::try_from(format!("{environment}/{region}"))?;
    let alarm = AlarmName::new(alarm)?;
    let newest = Arc::clone(&api.newest);
    api.run(move |runtime| say(runtime, &newest, &caller, (team, scope, alarm), request)).await.map(Json)
}

/// Takes the webhook of an Alertmanager. What is not understood is told and ignored: an Alertmanager would send it again for
/// ever. Members and reporters of the teams whose alarms it names may.
#[utoipa::path(post, path = "/v1/alertmanager", security(("token" = [])),
    request_body(content = String, content_type = "application/json", description = "version 4 of Alertmanager's webhook"),
    responses((status = 200, body = AlertsTaken), (status = 403, body = ErrorAnswer), (status = 429, body = ErrorAnswer)))]
pub(super) async fn alertmanager(
    State(api): State<Api>,
    caller: Caller,
    Text(text): Text,
) -> Result<Json<AlertsTaken>, ApiError> {
    limited(&api, &caller)?;
    let message: Webhook = parse(&text)?;
    if message.version != alertmanager::VERSION {
        let text = "this is not version 4 of Alertmanager's webhook";
        return Err(ApiError::bad(text, "use a receiver with webhook_configs"));
    }
    if message.alerts.len() > ALERTS_MAX {
        let text = format!("one message has at most {ALERTS_MAX} alerts");
        return Err(ApiError::new(
            Code::TooLarge,
            text,
            "group alerts by alertname, service, environment and region",
        ));
    }
    api.run(move |runtime| hear(runtime, &caller, &message)).await.map(Json)
}

fn limited(api: &Api, caller: &Caller) -> Result<(), ApiError> {
    if api.words.allows(&caller.0, Instant::now()) {
        return Ok(());
    }
    let message = format!("{} says more of alarms than is taken of one user", caller.0);
    Err(ApiError::new(
        Code::TooMany,
        message,
        "say the same less often: half of an alarm's time to live is enough",
    ))
}

fn say(
    runtime: &Runtime,
    newest: &Newest,
    caller: &Caller,
    about: (TeamId, Scope, AlarmName),
    request: ReportRequest,
) -> Result<Done, ApiError> {
    let (id, scope, alarm) = about.clone();
    let organisation = runtime.organisation()?;
    let rights = Rights { user: &caller.0, organisation: organisation.definition.as_deref() };
    if !rights.reporter(&id) {
        let message = format!("{} is not a member and not a reporter of a team '{id}'", caller.0);
        return Err(ApiError::forbidden(message, "ask a member of the team"));
    }
    let team = runtime.team(&id)?;
    if !team.outside().any(|a| a.name == alarm) {
        let message = format!("{id} has no alarm '{alarm}' from outside");
        return Err(ApiError::not_found(message, "a service's definition names it under 'outside'"));
    }
    if !team.scopes.contains_key(&scope) && !places(runtime, &team)?.contains(&scope) {
        let message = format!("{id} does not deploy to {scope}");
        return Err(ApiError::not_found(message, "see 'tidegate status' for environments and Regions"));
    }
    let why = act::reason(&request.why)?;
    let now = runtime.now();
    let at = request.at.unwrap_or(now);
    if at > now + AHEAD_MAX {
        let hint = "set the clock, or leave 'at' out";
        return Err(ApiError::bad("its time lies ahead of the server's clock", hint));
    }
    let nothing =
        format!("{alarm} in {scope}: nothing new; the same counts still, or something newer is known");
    if newest.is_old(&about, at) {
        return Ok(act::done(nothing));
    }
    let word = Word::State { state: request.state, why, at, ttl: request.ttl };
    let words = BTreeMap::from([(scope.clone(), BTreeMap::from([(alarm.clone(), word)]))]);
    let outcome = runtime.submit(&Event::Team(id, TeamEvent::Reported { words }), &caller.actor())?;
    newest.heard(about, at);
    let of_it = |fact: &Fact| match fact {
        Fact::Team(TeamFact::AlarmChanged { alarm: of, .. } | TeamFact::AlarmRenewed { alarm: of, .. }) => {
            *of == alarm
        }
        _ => false,
    };
    let is_new = outcome.facts.iter().any(|(_, fact)| of_it(fact));
    Ok(act::done(if is_new { format!("{alarm} in {scope} is {}", request.state) } else { nothing }))
}

fn hear(runtime: &Runtime, caller: &Caller, message: &Webhook) -> Result<AlertsTaken, ApiError> {
    let organisation = runtime.organisation()?;
    let teams = Rights { user: &caller.0, organisation: organisation.definition.as_deref() }.reports_for();
    if teams.is_empty() {
        let text =
            format!("{} is in no team, and only members and reporters speak of a team's alarms", caller.0);
        return Err(ApiError::forbidden(text, "name the user under the team's 'reporters'"));
    }
    let teams: Vec<(TeamId, Arc<Team>)> =
        teams.into_iter().map(|id| runtime.team(&id).map(|team| (id, team))).collect::<Result<_, _>>()?;
    // What a team's pipelines deploy to is read once, and only if something names a place that no alarm was ever in.
    let deployed = std::cell::RefCell::new(BTreeMap::<TeamId, BTreeSet<Scope>>::new());
    let failed = std::cell::RefCell::new(None);
    let knows = |id: &TeamId, scope: &Scope| {
        let Some((_, team)) = teams.iter().find(|(of, _)| of == id) else { return false };
        if team.scopes.contains_key(scope) {
            return true;
        }
        let mut deployed = deployed.borrow_mut();
        let places = deployed.entry(id.clone()).or_insert_with(|| {
            places(runtime, team).unwrap_or_else(|error| {
                failed.replace(Some(error));
                BTreeSet::new()
            })
        });
        places.contains(scope)
    };
    let audience = Audience { teams: &teams, knows: &knows };
    let mut heard = alertmanager::hear(message, &audience, runtime.now());
    if let Some(error) = failed.take() {
        return Err(error);
    }
    for (team, words) in std::mem::take(&mut heard.words) {
        runtime.submit(&Event::Team(team, TeamEvent::Reported { words }), &caller.actor())?;
    }
    if let Some(first) = heard.ignored.first() {
        let ignored = heard.ignored.len();
        tracing::warn!(by = %caller.0, ignored, alert = first.alert, "alerts were ignored: {}", first.why);
    }
    Ok(AlertsTaken { version: VERSION, taken: heard.taken, ignored: heard.ignored })
}

/// Where a team deploys to: alarms of other places would be kept for nothing.
fn places(runtime: &Runtime, team: &Team) -> Result<BTreeSet<Scope>, ApiError> {
    let mut places = BTreeSet::new();
    for id in &team.pipelines {
        if let Some(pipeline) = runtime.pipeline(id)? {
            places.extend(pipeline.plan.targets().map(|target| Scope::of(&target.id)));
        }
    }
    Ok(places)
}
