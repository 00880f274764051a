//! Delivers pages. A destination that does not answer holds nothing else up, not even the page's other destinations.

use super::Hands;
use super::dispatch::Performed;
use futures_util::future::join_all;
use std::sync::{Arc, PoisonError};
use tidegate_core::causes;
use tidegate_core::decision::{EffectId, Page, PageAbout, PageKind};
use tidegate_core::definition::{EmailDef, PageTarget};
use tidegate_core::ids::SecretName;
use tidegate_core::pipeline::Build;
use tidegate_core::units::Span;
use tidegate_workers::notify::{Address, Delivery, Mailbox};

/// A page that nobody has taken after this is old news; until then it is tried with growing pauses, restarts included.
const TRIED_MAX: Span = Span::hours(1);

pub(super) async fn perform(hands: &Arc<Hands>, id: &EffectId, page: &Page) -> Performed {
    let page = &complete(hands, id, page).await;
    let tries = page.to.iter().enumerate().map(|(n, target)| deliver(hands, id, page, n, target));
    let failures: Vec<String> = join_all(tries).await.into_iter().flatten().collect();
    let why = failures.join("; ");
    let old = hands.runtime.now().since(page.at) >= TRIED_MAX;
    if !failures.is_empty() && !old {
        return Performed::Failed(why);
    }
    hands.paged.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| of != id);
    hands.page_texts.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    if failures.is_empty() { Performed::Done } else { Performed::GivenUp(why) }
}

/// The page with what metrics say of the release that it is about: the same at every try.
async fn complete(hands: &Arc<Hands>, id: &EffectId, page: &Page) -> Page {
    let Some(about) = page.about.clone() else { return page.clone() };
    let known = hands.page_texts.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
    let text = match known {
        Some(text) => text,
        None => {
            let requests = hands.blocking(move |hands| served(hands, &about)).await;
            let text = requests.map_or(page.text.clone(), |line| format!("{}\n{line}", page.text));
            hands.page_texts.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), text.clone());
            text
        }
    };
    Page { text, ..page.clone() }
}

/// How many requests were hit; nothing for a release that was never built.
fn served(hands: &Hands, about: &PageAbout) -> Option<String> {
    let PageAbout { pipeline, release } = about;
    let state = hands.runtime.pipeline(pipeline).ok()??;
    let Build::Built { run_specs, .. } = &state.releases.get(release)?.build else { return None };
    Some(match hands.served.of(run_specs.values()) {
        None => format!("Requests: metrics tell of none that boxes of {release} have answered"),
        Some(count) => format!(
            "Requests: by its metrics, boxes of {release} have answered {} since {}, {} of them with a fault (5xx, broken or \
             timed out)",
            count.requests, count.since, count.faults
        ),
    })
}

/// One try with one of the page's destinations, unless it has been paged; why it failed. A destination is named by its kind
/// and place, for its address may hold a secret.
async fn deliver(
    hands: &Arc<Hands>,
    id: &EffectId,
    page: &Page,
    n: usize,
    target: &PageTarget,
) -> Option<String> {
    let paged = || hands.paged.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (id.clone(), n);
    // Whoever cannot tell an end from a beginning is not called for it.
    if paged().contains(&key) || page.kind == PageKind::Resolved && matches!(target, PageTarget::Webhook(_)) {
        return None;
    }
    let address = match address(hands, target).await {
        Ok(address) => address,
        Err(why) => return Some(format!("destination {}: {why}", n + 1)),
    };
    match hands.notifier.deliver(&address, &id.0, page).await {
        Delivery::Delivered => {
            paged().insert(key);
            None
        }
        Delivery::GaveUp { why } => Some(format!("{} {}: {why}", address.kind(), n + 1)),
    }
}

/// The destination with its secrets as they are now.
async fn address(hands: &Arc<Hands>, target: &PageTarget) -> Result<Address, String> {
    let secret = async |name: &SecretName| {
        let name = name.clone();
        let value = hands.blocking(move |hands| hands.secrets.get(&name)).await.map_err(|e| causes(&e))?;
        Ok::<String, String>(value.expose().trim().to_owned())
    };
    Ok(match target {
        PageTarget::Webhook(url) => Address::Webhook(url.clone()),
        PageTarget::Pagerduty(def) => Address::PagerDuty {
            url: def.url.clone().unwrap_or_else(|| Address::PAGERDUTY.to_owned()),
            routing_key: secret(&def.routing_key).await?,
        },
        PageTarget::Slack(def) => Address::Slack(secret(&def.url).await?),
        PageTarget::Alertmanager(def) => Address::Alertmanager(def.url.clone()),
        PageTarget::Email(EmailDef { to, from, server, tls, user, secret: password }) => {
            let login = match (user, password) {
                (Some(user), Some(name)) => Some((user.clone(), secret(name).await?)),
                _ => None,
            };
            let (to, from, server) = (to.clone(), from.clone(), server.clone());
            Address::Mail(Mailbox { to, from, server, tls: *tls, login })
        }
    })
}
