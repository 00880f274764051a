//! Asks the teams' Prometheus what their alarms want to know, and brings the answers to the monitor. A Prometheus that does not
//! answer holds nothing up: its alarms have no data, and why stands beside them and among the troubles.

use super::Hands;
use super::monitor::scopes;
use std::sync::Arc;
use tidegate_core::causes;
use tidegate_core::definition::PrometheusDef;
use tidegate_core::ids::TeamId;
use tidegate_core::team::Team;
use tidegate_core::units::Span;
use tidegate_workers::monitor::{About, Monitor, Question, Standing};
use tidegate_workers::prometheus::Server;

/// A trouble is over when it was not met again so long after.
const AGAIN: Span = Span::minutes(2);

/// Gives the monitor what was answered.
pub(super) fn take(hands: &Hands, monitor: &mut Monitor) {
    for (about, answer) in hands.prometheus.answers() {
        note(hands, &about, answer.as_ref().err());
        monitor.take_answer(&about, answer);
    }
}

fn note(hands: &Hands, about: &About, why: Option<&String>) {
    let (_, scope) = &about.place;
    let id = format!("promql/{}/{}/{scope}", about.team, about.alarm);
    match why {
        None => hands.troubles.over(&id),
        Some(why) => {
            let now = hands.runtime.now();
            let what = format!("Prometheus has no data for {} in {scope}", about.alarm);
            hands.troubles.failed(&id, what, why, now, now + AGAIN);
        }
    }
}

/// Asks what is due for a team.
pub(super) async fn ask(
    hands: &Arc<Hands>,
    monitor: &mut Monitor,
    id: &TeamId,
    until: i64,
    standing: &Standing,
) {
    let Ok(team) = hands.runtime.team(id) else { return };
    let mut questions: Vec<Question> = Vec::new();
    for scope in scopes(&team, standing) {
        questions.extend(monitor.questions(id, &team, &scope, until, standing));
    }
    if questions.is_empty() {
        return;
    }
    match server(hands, &team).await {
        Ok(server) => {
            for Question { about, query } in questions {
                let at = about.at();
                hands.prometheus.ask(about, server.clone(), query, at);
            }
        }
        Err(why) => {
            for Question { about, .. } in questions {
                note(hands, &about, Some(&why));
                monitor.take_answer(&about, Err(why.clone()));
            }
        }
    }
}

/// Whom a team asks: its own Prometheus, or the organisation's.
async fn server(hands: &Arc<Hands>, team: &Team) -> Result<Server, String> {
    let own = team.definition.as_ref().and_then(|definition| definition.prometheus.clone());
    let of_all = || -> Option<PrometheusDef> {
        hands.runtime.organisation().ok()?.definition.as_ref()?.prometheus.clone()
    };
    let Some(PrometheusDef { url, secret }) = own.or_else(of_all) else {
        return Err("no Prometheus is defined".to_owned());
    };
    let Some(name) = secret else { return Ok(Server { url, token: None }) };
    let token = hands.blocking(move |h| h.secrets.get(&name)).await.map_err(|e| causes(&e))?;
    Ok(Server { url, token: Some(token.expose().trim().to_owned()) })
}
