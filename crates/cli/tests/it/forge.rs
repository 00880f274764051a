//! Approvals from where reviews happen: a whole server, a real repository, and a forge that it asks; and what is sent to it in the
//! forge's name.

use crate::world::forge::{AFTER, BEFORE, Forge, How, Mood, TOKEN};
use crate::world::{Repo, World, definitions, get, post, words};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_api::CommitStatus;

const KEY: &str = "a key for this repository's webhook";
const HOOK: &str = "/v1/webhooks/app/code";

struct Scene {
    world: World,
    repo: Repo,
    forge: Forge,
    definition: Value,
}

impl Scene {
    /// The mainline's first commit was there before; all others are reviewed on GitHub. The repository is looked at so often.
    fn start(late_approval: &str, poll: &str) -> Scene {
        Scene::on("github", late_approval, poll)
    }

    fn on(kind: &str, late_approval: &str, poll: &str) -> Scene {
        let forge = Forge::start();
        let mut organisation = definitions::organisation();
        for (user, name) in ["alice", "bob"].iter().enumerate() {
            organisation["users"][user]["accounts"] = json!({kind: format!("{name}-on-forge")});
        }
        organisation["teams"][0]["late_approval"] = json!(late_approval);
        let world = World::start_with(&organisation, None);
        world.secret("github", TOKEN);
        world.secret("hook", KEY);
        let repo = world.repo("shop");
        let first = repo.commit(&[], "what was there before");
        repo.merge(&first);
        let mut definition = definitions::application(&repo);
        let name = if kind == "github" { "repository" } else { "project" };
        definition["sources"][0]["since"] = json!(first);
        definition["sources"][0]["poll"] = json!(poll);
        definition["sources"][0]["review"] =
            json!({kind: {name: "acme/shop", "api": forge.url, "token": "github", "webhook": "hook"}});
        world.apply("app", &definition).well();
        Scene { world, repo, forge, definition }
    }

    /// A change of two commits is merged as pull request `number`; its head.
    fn merged(&self, number: u64, how: How) -> String {
        self.repo.commit(&[("one", &number.to_string())], "one part");
        self.repo.commit(&[("version", &(number + 1).to_string())], "and another");
        self.forge.merge(&self.repo, number, how)
    }

    /// Bob approves of it before it is merged: whoever asks in between is told so a little later.
    fn approved(&self, number: u64, head: &str) {
        self.forge.review(number, "bob-on-forge", "APPROVED", head, BEFORE);
    }

    fn pending(&self) -> Vec<CommitStatus> {
        self.world.pipeline("app").sources.remove(0).pending
    }

    /// Waits until the mainline's newest commit waits for such a reason; all of it.
    fn until_waits(&self, reason: &str) -> String {
        self.world.until(&format!("the newest commit waits: {reason}"), || {
            self.pending().last()?.unreviewed.clone().filter(|why| why.contains(reason))
        })
    }

    fn hook(&self, body: &str) -> (u16, String) {
        self.hook_signed(&sign(body), body)
    }

    fn hook_signed(&self, mac: &str, body: &str) -> (u16, String) {
        post(&self.world.address().unwrap(), HOOK, &format!("x-hub-signature-256: sha256={mac}\r\n"), body)
            .expect("the server answers")
    }

    fn looks(&self) -> usize {
        self.forge.asked("/commits/")
    }
}

impl World {
    fn secret(&self, name: &str, value: &str) {
        let file = self.dir().join("secret");
        fs::write(&file, value).unwrap();
        self.cli_with(&["secret", "set", name], File::open(&file).unwrap()).well();
    }
}

fn sign(body: &str) -> String {
    let mac = Hmac::<sha2::Sha256>::new_from_slice(KEY.as_bytes()).unwrap().chain_update(body).finalize();
    mac.into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn what_was_approved_on_github_goes_to_production_by_itself_however_it_was_merged() {
    let scene = Scene::start("forbid", "200ms");
    for (number, how) in [(1, How::Merge), (2, How::Squash), (3, How::Rebase)] {
        let head = scene.merged(number, how);
        scene.approved(number, &head);
        scene.world.until_passed("app", number);
    }
    let status = words(&scene.world.cli(&["status", "app"]).well());
    assert!(status.contains("(approved by bob in pull request acme/shop#2)"), "{status}");
    let told = scene.world.told();
    let by_hand = told.iter().find(|text| text.contains(" approved by "));
    assert_eq!(by_hand, None, "nobody told tidegate of an approval");
    assert!(
        told.iter().any(|text| text == "code: GitHub says that 2 commits came by pull request acme/shop#3"),
        "{told:#?}"
    );
    let metrics = scene.world.get("/metrics");
    assert!(metrics.contains("tidegate_forge_requests_total{end=\"failed\"} 0"), "{metrics}");
}

#[test]
fn what_was_approved_on_gitlab_and_moved_the_mainline_forward_goes_by_itself() {
    let scene = Scene::on("gitlab", "forbid", "200ms");
    let head = scene.merged(1, How::FastForward);
    scene.approved(1, &head);
    scene.world.until_passed("app", 1);
    let status = words(&scene.world.cli(&["status", "app"]).well());
    assert!(status.contains("(approved by bob in merge request acme/shop!1)"), "{status}");
}

#[test]
fn what_nobody_approved_stalls_with_the_forge_s_reason_and_a_late_approval_lets_it_go() {
    let scene = Scene::start("allow", "200ms");
    let head = scene.merged(1, How::Merge);
    let why = scene.until_waits("nobody has approved pull request acme/shop#1");
    assert!(why.contains("; no approval by a team member"), "{why}");
    // Another head than the one that was merged.
    let older = scene.repo.git(&["rev-parse", &format!("{head}~1")]);
    scene.approved(1, &older);
    let stale = format!("was approved by bob for {}, but {} was merged", &older[..10], &head[..10]);
    scene.until_waits(&stale);
    let newest = scene.pending().last().unwrap().commit.to_string();
    let told = words(&scene.world.cli(&["why", &newest]).well());
    assert!(told.contains(&stale), "{told}");

    scene.forge.review(1, "bob-on-forge", "APPROVED", &head, AFTER);
    scene.world.until_passed("app", 1);
    let status = words(&scene.world.cli(&["status", "app"]).well());
    assert!(status.contains("(approved late by bob in pull request acme/shop#1)"), "{status}");

    // What was pushed without one says so, and a word to tidegate still counts.
    let pushed = scene.repo.commit(&[("version", "9")], "pushed");
    scene.repo.merge(&pushed);
    scene.until_waits("it came by no merged pull request of acme/shop; no approval by a team member");
    scene.world.bob(&["approve", &pushed]).well();
    scene.world.until_passed("app", 2);
}

#[test]
fn an_approval_that_is_withdrawn_while_its_commit_waits_for_another_is_heeded() {
    let scene = Scene::start("allow", "200ms");
    let pushed = scene.repo.commit(&[("pushed", "x")], "pushed by hand");
    scene.repo.merge(&pushed);
    let head = scene.merged(1, How::Merge);
    scene.approved(1, &head);
    let waits = "the merge is approved and waits for what was pushed";
    scene.world.until(waits, || {
        let pending = scene.pending();
        (pending.len() == 4 && pending.last()?.unreviewed.is_none()).then_some(())
    });
    scene.forge.review(1, "bob-on-forge", "DISMISSED", &head, AFTER);
    scene.until_waits("by 'bob-on-forge' was withdrawn");
    scene.world.bob(&["approve", &pushed]).well();
    scene.world.until_passed("app", 1);
    assert_eq!(scene.pending().len(), 3, "nothing of the change goes along");
}

#[test]
fn an_approved_change_does_not_vouch_for_what_a_merge_smuggled_in() {
    let scene = Scene::start("forbid", "200ms");
    let head = scene.merged(1, How::Evil);
    scene.approved(1, &head);
    let why = scene.until_waits("pull request acme/shop#1 does not vouch for it: ");
    assert!(why.contains("has other files than"), "{why}");
    assert_eq!(scene.world.pipeline("app").releases.len(), 0);
    let reasons: Vec<bool> = scene.pending().iter().map(|c| c.unreviewed.is_some()).collect();
    assert_eq!(reasons, [false, false, true], "the change's own commits are approved");
}

#[test]
fn a_webhook_makes_it_quick_and_forged_replayed_and_huge_ones_do_nothing() {
    let scene = Scene::start("forbid", "1h");
    scene.world.until("it was looked at", || scene.world.pipeline("app").sources[0].head.clone());
    // An unapproved commit: each look at the repository asks about it.
    let head = scene.merged(1, How::Merge);
    assert_eq!(scene.hook(r#"{"action": "closed", "number": 1}"#).0, 200);
    scene.until_waits("nobody has approved");
    scene.approved(1, &head);

    let looks = scene.looks();
    let body = r#"{"action": "submitted", "review": {"state": "approved"}}"#;
    assert_eq!(scene.hook_signed(&sign("another body"), body).0, 401);
    assert_eq!(scene.hook(r#"{"action": "closed", "number": 1}"#).0, 409, "it was sent before");
    let huge = " ".repeat(2 << 20);
    let head_of_it = format!("x-hub-signature-256: sha256={}\r\n", sign(&huge));
    // It is answered before all of it is sent.
    let told = post(&scene.world.address().unwrap(), HOOK, &head_of_it, &huge);
    assert!(told.is_none_or(|(status, _)| status == 413));
    let metrics = scene.world.get("/metrics");
    for counted in
        ["{end=\"taken\"} 1", "{end=\"forged\"} 1", "{end=\"replayed\"} 1", "{end=\"too-large\"} 1"]
    {
        assert!(metrics.contains(&format!("tidegate_webhooks_total{counted}")), "{metrics}");
    }
    assert_eq!(scene.looks(), looks, "nothing was looked at for any of them");

    assert_eq!(scene.hook(body).0, 200);
    scene.world.until_passed("app", 1);
    let log = scene.world.server_log();
    assert!(log.contains("webhooks were refused"), "{log}");
}

#[test]
fn a_thousand_webhooks_a_second_lead_to_a_look_a_second_and_starve_nobody() {
    const SENDERS: usize = 16;
    const SENT_FOR: Duration = Duration::from_secs(3);
    let scene = Scene::start("forbid", "1h");
    scene.merged(1, How::Merge);
    assert_eq!(scene.hook("first").0, 200);
    scene.until_waits("nobody has approved");
    let (before, begun) = (scene.looks(), Instant::now());
    let (next, taken, forged, slowest) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                while begun.elapsed() < SENT_FOR {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    // Every other one is forged.
                    let body = format!("event {n}");
                    let mac = if n % 2 == 0 { sign(&body) } else { sign("another") };
                    match scene.hook_signed(&mac, &body).0 {
                        200 if n % 2 == 0 => drop(taken.fetch_add(1, Ordering::Relaxed)),
                        401 if n % 2 == 1 => drop(forged.fetch_add(1, Ordering::Relaxed)),
                        429 => {}
                        other => panic!("webhook {n} was answered {other}"),
                    }
                }
            });
        }
        // Meanwhile everybody else is served.
        scope.spawn(|| {
            while begun.elapsed() < SENT_FOR {
                let asked = Instant::now();
                let (status, _) = get(&scene.world.address().unwrap(), "/v1/health", None).unwrap();
                assert_eq!(status, 200);
                scene.world.status();
                slowest.fetch_max(asked.elapsed().as_millis() as usize, Ordering::Relaxed);
            }
        });
    });
    let sent = next.into_inner();
    scene.world.until("the last of them is heeded", || (scene.looks() > before).then_some(()));
    let seconds = begun.elapsed().as_secs_f64();
    let (looks, taken, forged) = (scene.looks() - before, taken.into_inner(), forged.into_inner());
    let slowest = slowest.into_inner();
    eprintln!(
        "{sent} in {seconds:.1} s: {taken} taken, {forged} forged; {looks} looks; slowest status {slowest} ms"
    );
    assert!(taken > 100 && forged > 100, "{taken} {forged}");
    // One a second, the one that was under way, and the one that its commits' youth brings.
    assert!(looks as f64 <= seconds + 3.0, "{looks} looks in {seconds} s");
    assert!(slowest < 5_000, "somebody else waited for {slowest} ms");
}

#[test]
fn a_forge_that_is_down_refuses_or_has_enough_is_told_of_and_is_no_verdict() {
    let scene = Scene::start("forbid", "200ms");
    scene.forge.is(Mood::Down);
    let head = scene.merged(1, How::Merge);
    scene.approved(1, &head);
    let trouble = |says: &str| {
        scene.world.until(&format!("the trouble shows: {says}"), || {
            let status = words(&scene.world.cli(&["status"]).well());
            let what = "TROUBLE asking GitHub about acme/shop";
            (status.contains(what) && status.contains(says)).then_some(())
        });
    };
    trouble("it does not answer");
    // The repository is looked at all the same.
    assert_eq!(scene.pending().len(), 3);
    assert_eq!(scene.world.pipeline("app").sources[0].trouble, None);
    let why = scene.pending()[2].unreviewed.clone().unwrap();
    assert!(why.starts_with("no approval by a team member"), "nothing is known of the forge: {why}");

    scene.world.secret("github", "an old token");
    scene.forge.is(Mood::Well);
    trouble("it refuses the token (401): Bad credentials");

    scene.world.secret("github", TOKEN);
    scene.forge.is(Mood::Limited);
    trouble("it takes no more requests for");
    scene.forge.is(Mood::Well);
    scene.world.until_passed("app", 1);
    scene.world.until("the trouble is over", || scene.world.status().troubles.is_empty().then_some(()));
}

#[test]
fn a_definition_with_a_bad_forge_is_refused_with_its_place() {
    let scene = Scene::start("forbid", "1h");
    let mut bad = scene.definition.clone();
    bad["sources"][0]["review"]["github"]["repository"] = json!("shop");
    let told = scene.world.apply("app", &bad);
    assert_ne!(told.code, 0);
    assert!(told.talk.contains("TG148") && told.talk.contains("write owner/name"), "{}", told.talk);
}
