//! Checks what connects people and sources with forges: a slip here would let the wrong person's approvals count, or nobody's.

use super::{Findings, is_web_address};
use crate::definition::{OrganisationDef, PipelineDef, ReviewDef};
use crate::forge::Forge;
use crate::ids::UserId;
use std::collections::BTreeMap;

/// The longest name of an account, or of a repository, in bytes.
const NAME_MAX_BYTES: usize = 255;

pub(super) fn organisation(f: &mut Findings, def: &OrganisationDef) {
    addresses(f, def);
    for (forge, field) in [(Forge::Github, "github"), (Forge::Gitlab, "gitlab")] {
        let mut known = BTreeMap::new();
        for (n, user) in def.users.iter().enumerate() {
            let Some(account) = user.accounts.on(forge) else { continue };
            let place = format!("/users/{n}/accounts/{field}");
            if !is_name(account) {
                let message = format!("'{account}' is no name of an account on {forge}");
                f.add("TG117", place, message, "write the name alone, without '@', address or spaces");
            } else if let Some(other) = known.insert(account.to_ascii_lowercase(), &user.name) {
                let message = format!("'{account}' is {other}'s account already");
                f.add("TG117", place, message, "an account is one person's");
            }
        }
    }
}

/// Whoever commits under an address that is somebody else's as well cannot be told from them.
fn addresses(f: &mut Findings, def: &OrganisationDef) {
    let mut known: BTreeMap<String, &UserId> = BTreeMap::new();
    for (n, user) in def.users.iter().enumerate() {
        for (m, email) in user.emails.iter().enumerate() {
            let other = known.insert(email.to_ascii_lowercase(), &user.name);
            if let Some(other) = other.filter(|other| **other != user.name) {
                let message = format!("'{email}' is {other}'s address already");
                f.add("TG117", format!("/users/{n}/emails/{m}"), message, "an address is one person's");
            }
        }
    }
}

pub(super) fn pipeline(f: &mut Findings, def: &PipelineDef) {
    for (n, source) in def.sources.iter().enumerate() {
        let Some(review) = &source.review else { continue };
        let (kind, field, fits, shape) = match review {
            ReviewDef::Github(def) => {
                let fits = def.repository.split('/').count() == 2;
                ("github", "repository", fits, "write owner/name")
            }
            ReviewDef::Gitlab(def) => {
                let fits = def.project.split('/').count() >= 2;
                ("gitlab", "project", fits, "write the path with all of its groups, such as acme/web/shop")
            }
        };
        let (place, repository) = (format!("/sources/{n}/review/{kind}"), review.repository());
        if !fits || repository.len() > NAME_MAX_BYTES || !repository.split('/').all(is_name) {
            let message = format!("'{repository}' is no {field} on {}", review.forge());
            f.add("TG148", format!("{place}/{field}"), message, shape);
        }
        if !is_web_address(review.api()) || review.api().contains(['?', '#', '@']) {
            let message = "this is no address that can be called";
            let hint = "write http://host/path or https://host/path, without a user, a query and spaces";
            f.add("TG148", format!("{place}/api"), message, hint);
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= NAME_MAX_BYTES && text.chars().all(plain) && text != "." && text != ".."
}
