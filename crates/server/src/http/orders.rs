//! What people order. Each order is recorded with who gave it and why.

use super::extract::{Body, Caller};
use super::{Api, ApiError, act};
use crate::auth::{BOOTSTRAP_ADMINISTRATOR, Rights};
use axum::Json;
use axum::extract::{Path, State};
use tidegate_api::{
    AdoptRequest, Adopted, AlarmRequest, ApprovalRequest, Done, ErrorAnswer, HoldRequest, NotifyRequest,
    OverrideRequest, RetireRequest, RetryRequest, RollbackRequest, SkipRequest, TokenCreated, TokenRequest,
    VERSION,
};
use tidegate_core::alarm::AlarmName;
use tidegate_core::ids::{EnvironmentId, PipelineId, UserId};
use tidegate_core::pipeline::{Motion, PipelineEvent, SlotState};
use tidegate_core::scope::Scope;

/// Approves exactly one commit. Members of the team may; an approval by the commit's author does not count.
#[utoipa::path(post, path = "/v1/approvals", request_body = ApprovalRequest, security(("token" = [])),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer)))]
pub(super) async fn approve(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<ApprovalRequest>,
) -> Result<Json<Done>, ApiError> {
    api.run(move |runtime| act::approve(runtime, &caller, request)).await.map(Json)
}

/// Stops new starts. Members of the team may.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/holds", request_body = HoldRequest, security(("token" = [])),
    params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 409, body = ErrorAnswer)))]
pub(super) async fn place_hold(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<HoldRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let done = api.run(move |runtime| {
        let event = PipelineEvent::HoldPlaced {
            by: caller.actor(),
            reason: act::reason(&request.reason)?,
            until: request.expires_in.map(|span| runtime.now() + span),
            stage: request.stage,
        };
        let number = act::number(&act::steer(runtime, &caller, &id, event)?);
        let text = format!("{id} is held; 'tidegate unhold' with the hold's number lifts it");
        Ok(Done { version: VERSION, text, number })
    });
    done.await.map(Json)
}

/// Lifts a hold. Members of the team may.
#[utoipa::path(delete, path = "/v1/pipelines/{pipeline}/holds/{number}", security(("token" = [])),
    params(("pipeline" = String, Path), ("number" = u64, Path)),
    responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn lift_hold(
    State(api): State<Api>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let hold: u64 =
        number.parse().map_err(|_| ApiError::bad("a hold's number is expected", "see 'tidegate status'"))?;
    let done = api.run(move |runtime| {
        let event = PipelineEvent::HoldLifted { hold, by: caller.actor() };
        act::steer(runtime, &caller, &id, event)?;
        Ok(act::done(format!("hold {hold} of {id} is lifted")))
    });
    done.await.map(Json)
}

/// Lets one release pass blockers. Members of the team may.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/overrides", request_body = OverrideRequest,
    security(("token" = [])), params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn override_blockers(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<OverrideRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    if request.blockers.is_empty() {
        let hint = "name window, aggregate-alarm, organisation-alarm or hold";
        return Err(ApiError::bad("no blocker is named", hint));
    }
    let done = api.run(move |runtime| {
        let release = request.release;
        let event = PipelineEvent::Overridden {
            release,
            blockers: request.blockers,
            steps: request.steps,
            by: caller.actor(),
            reason: act::reason(&request.reason)?,
            expires: runtime.now() + request.expires_in,
        };
        let number = act::number(&act::steer(runtime, &caller, &id, event)?);
        Ok(Done { version: VERSION, text: format!("{release} of {id} may pass"), number })
    });
    done.await.map(Json)
}

/// Leaves a Region out of starts. Members of the team may.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/skips", request_body = SkipRequest, security(("token" = [])),
    params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 409, body = ErrorAnswer)))]
pub(super) async fn skip_region(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<SkipRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let environment = request.environment.map_or_else(|| EnvironmentId::new("production"), Ok)?;
    let scope = Scope { environment, region: request.region };
    let done = api.run(move |runtime| {
        let event = PipelineEvent::RegionSkipped {
            scope: scope.clone(),
            release: request.release,
            by: caller.actor(),
            reason: act::reason(&request.reason)?,
        };
        let number = act::number(&act::steer(runtime, &caller, &id, event)?);
        let text = format!("{id} leaves {scope} out; 'tidegate unskip' with the skip's number ends that");
        Ok(Done { version: VERSION, text, number })
    });
    done.await.map(Json)
}

/// Lets a Region take part again. Members of the team may.
#[utoipa::path(delete, path = "/v1/pipelines/{pipeline}/skips/{number}", security(("token" = [])),
    params(("pipeline" = String, Path), ("number" = u64, Path)),
    responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn lift_skip(
    State(api): State<Api>,
    caller: Caller,
    Path((id, number)): Path<(String, String)>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let skip: u64 =
        number.parse().map_err(|_| ApiError::bad("a skip's number is expected", "see 'tidegate status'"))?;
    let done = api.run(move |runtime| {
        let event = PipelineEvent::SkipLifted { skip, by: caller.actor() };
        act::steer(runtime, &caller, &id, event)?;
        Ok(act::done(format!("skip {skip} of {id} is lifted; the Region catches up through its own steps")))
    });
    done.await.map(Json)
}

/// Deletes a pipeline. What is being taken back goes on; everything else is cancelled; boxes run on. Applying its definition
/// again revives it. Only administrators may.
#[utoipa::path(delete, path = "/v1/pipelines/{pipeline}", request_body = RetireRequest, security(("token" = [])),
    params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 409, body = ErrorAnswer)))]
pub(super) async fn retire(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<RetireRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    api.run(move |runtime| act::retire(runtime, &caller, &id, &request.reason)).await.map(Json)
}

/// Rejects a release and rolls it back. Members of the team may; nothing holds it.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/rollbacks", request_body = RollbackRequest,
    security(("token" = [])), params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn roll_back(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<RollbackRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let done = api.run(move |runtime| {
        let release = request.release;
        let event = PipelineEvent::RollbackOrdered {
            release,
            by: caller.actor(),
            reason: act::reason(&request.reason)?,
            everywhere: request.everywhere,
        };
        act::steer(runtime, &caller, &id, event)?;
        let here = |slot: &SlotState| slot.motion == Motion::Settled && slot.current() == Some(release);
        let stays = runtime.pipeline(&id)?.map_or(0, |p| p.slots.values().filter(|slot| here(slot)).count());
        let stays = match stays {
            0 => String::new(),
            n => format!(
                "; where it had finished ({n} targets) it still runs: with --everywhere they return as well"
            ),
        };
        Ok(act::done(format!("{release} of {id} is rejected and rolled back where it is under way{stays}")))
    });
    done.await.map(Json)
}

/// Tries a failed build or a rejected release again. Members of the team may.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/retries", request_body = RetryRequest,
    security(("token" = [])), params(("pipeline" = String, Path)),
    responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(request): Body<RetryRequest>,
) -> Result<Json<Done>, ApiError> {
    let id = PipelineId::new(id)?;
    let done = api.run(move |runtime| {
        let release = request.release;
        let reason = act::reason(&request.reason)?;
        let event = PipelineEvent::Retried { release, by: caller.actor(), reason };
        act::steer(runtime, &caller, &id, event)?;
        Ok(act::done(format!("{release} of {id} is tried again")))
    });
    done.await.map(Json)
}

/// Raises an alarm of the organisation: nothing starts anywhere. Only administrators may.
#[utoipa::path(put, path = "/v1/alarms/{name}", request_body = AlarmRequest, security(("token" = [])),
    params(("name" = String, Path)), responses((status = 200, body = Done), (status = 403, body = ErrorAnswer)))]
pub(super) async fn raise_alarm(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    Body(request): Body<AlarmRequest>,
) -> Result<Json<Done>, ApiError> {
    let name = AlarmName::new(name)?;
    api.run(move |runtime| act::alarm(runtime, &caller, name, Some(request))).await.map(Json)
}

/// Clears an alarm of the organisation. Only administrators may.
#[utoipa::path(delete, path = "/v1/alarms/{name}", security(("token" = [])),
    params(("name" = String, Path)), responses((status = 200, body = Done), (status = 409, body = ErrorAnswer)))]
pub(super) async fn clear_alarm(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Done>, ApiError> {
    let name = AlarmName::new(name)?;
    api.run(move |runtime| act::alarm(runtime, &caller, name, None)).await.map(Json)
}

/// Says that a repository has new commits. It is looked at; nothing is believed.
#[utoipa::path(post, path = "/v1/notify", request_body = NotifyRequest, security(("token" = [])),
    responses((status = 200, body = Done)))]
pub(super) async fn notify(
    State(api): State<Api>,
    _caller: Caller,
    Body(request): Body<NotifyRequest>,
) -> Json<Done> {
    api.collaborators.source_changed(&request.url);
    Json(act::done("the source is looked at"))
}

/// Revokes all tokens of a user, from the next request on. Only administrators may; the first administrator's stays.
#[utoipa::path(delete, path = "/v1/tokens/{user}", security(("token" = [])), params(("user" = String, Path)),
    responses((status = 200, body = Done), (status = 403, body = ErrorAnswer), (status = 404, body = ErrorAnswer)))]
pub(super) async fn revoke_tokens(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<String>,
) -> Result<Json<Done>, ApiError> {
    let user = UserId::new(user)?;
    let tokens = std::sync::Arc::clone(&api.tokens);
    let revoked = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        if user.as_str() == BOOTSTRAP_ADMINISTRATOR {
            let n = tokens.renew_first(runtime.now())?;
            tracing::info!(%user, by = %caller.0, n, "tokens were revoked, and one was made");
            let file = crate::auth::ADMIN_TOKEN_FILE;
            return Ok(act::done(format!(
                "{n} token(s) of {user} are revoked; the new one is in the file {file} of the data directory"
            )));
        }
        match tokens.revoke(&user)? {
            0 => Err(ApiError::not_found(format!("'{user}' has no token"), "nothing was changed")),
            n => {
                tracing::info!(%user, by = %caller.0, n, "tokens were revoked");
                Ok(act::done(format!("{n} token(s) of {user} are revoked")))
            }
        }
    });
    revoked.await.map(Json)
}

/// Makes a token for a user of the organisation. Only administrators may.
#[utoipa::path(post, path = "/v1/tokens", request_body = TokenRequest, security(("token" = [])),
    responses((status = 200, body = TokenCreated), (status = 403, body = ErrorAnswer)))]
pub(super) async fn create_token(
    State(api): State<Api>,
    caller: Caller,
    Body(request): Body<TokenRequest>,
) -> Result<Json<TokenCreated>, ApiError> {
    let tokens = std::sync::Arc::clone(&api.tokens);
    let created = api.run(move |runtime| {
        act::administrator(runtime, &caller)?;
        let organisation = runtime.organisation()?;
        let user = request.user;
        if !(Rights { user: &user, organisation: organisation.definition.as_deref() }).known() {
            let message = format!("the organisation has no user '{user}'");
            return Err(ApiError::not_found(message, "add the user to the organisation's definition first"));
        }
        let token = tokens.create(user.clone(), runtime.now())?;
        Ok(TokenCreated { version: VERSION, user, token })
    });
    created.await.map(Json)
}

/// Hands over a service that runs already: it is release 0 from then on, and nothing is deployed. Administrators may: the server
/// reads the folder and the processes that the request names.
#[utoipa::path(post, path = "/v1/pipelines/{pipeline}/adopt", request_body = AdoptRequest, security(("token" = [])),
    params(("pipeline" = String, Path)),
    responses((status = 200, body = Adopted), (status = 403, body = ErrorAnswer), (status = 409, body = ErrorAnswer)))]
pub(super) async fn adopt(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(mut request): Body<AdoptRequest>,
) -> Result<Json<Adopted>, ApiError> {
    let id = PipelineId::new(id)?;
    request.reason = act::reason(&request.reason)?;
    let by = caller.actor();
    api.run(move |runtime| act::administrator(runtime, &caller)).await?;
    Ok(Json(api.collaborators.adopt(&id, &request, &by).await?))
}
