//! A page in the formats of those who take it. Each has limits of its own, which are kept by cutting.

use serde::Serialize;
use serde_json::{Error, json, to_vec};
use sha2::{Digest, Sha256};
use tidegate_core::decision::{Page, PageKind, Severity};
use tidegate_core::run_spec::hex;
use tidegate_core::units::Span;

/// PagerDuty: of `payload.summary`, in characters (<https://developer.pagerduty.com/docs/send-alert-event>).
const SUMMARY_MAX: usize = 1_024;
/// PagerDuty: of `dedup_key`, in characters.
const DEDUP_KEY_MAX: usize = 255;
/// Slack: of a header block, in characters (<https://docs.slack.dev/reference/block-kit/blocks>).
const HEADER_MAX: usize = 150;
/// Slack: of a section block, in characters.
const SECTION_MAX: usize = 3_000;
/// Sections of one page.
const SECTIONS_MAX: usize = 4;
/// Of the text in the other formats, in characters.
const TEXT_MAX: usize = 12_000;
/// An Alertmanager takes an alert for over by itself when it has not heard of it for five minutes, unless it is told until when
/// it holds.
const HOLDS: Span = Span::hours(24);

/// tidegate's own form. Where else the page goes is nobody's business: an address may hold a secret.
#[derive(Serialize)]
struct Body<'a> {
    /// The same for all pages about one thing.
    key: &'a str,
    severity: Severity,
    title: &'a str,
    text: &'a str,
    /// RFC 3339.
    at: String,
}

pub(super) fn webhook(page: &Page) -> Result<Vec<u8>, Error> {
    let Page { key, severity, title, text, at, .. } = page;
    to_vec(&Body { key, severity: *severity, title, text, at: at.to_string() })
}

/// An event of the Events API v2.
pub(super) fn pagerduty(page: &Page, routing_key: &str) -> Result<Vec<u8>, Error> {
    let dedup_key = key(&page.key, DEDUP_KEY_MAX);
    if page.kind == PageKind::Resolved {
        return to_vec(&json!({
            "routing_key": routing_key, "event_action": "resolve", "dedup_key": dedup_key,
        }));
    }
    let severity = match page.severity {
        Severity::High => "critical",
        Severity::Low => "warning",
    };
    to_vec(&json!({
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": dedup_key,
        "client": "tidegate",
        "payload": {
            "summary": cut(&page.title, SUMMARY_MAX),
            "source": source(page),
            "severity": severity,
            "timestamp": page.at.to_string(),
            "component": source(page),
            "custom_details": {"text": cut(&page.text, TEXT_MAX)},
        },
    }))
}

/// A message of an incoming webhook. What a stranger wrote (a commit's first line) stands in plain text, where it mentions
/// nobody.
pub(super) fn slack(page: &Page) -> Result<Vec<u8>, Error> {
    let title = headline(page);
    let plain = |text: String| json!({"type": "plain_text", "text": text, "emoji": false});
    let mut blocks = vec![json!({"type": "header", "text": plain(cut(&title, HEADER_MAX))})];
    let text: Vec<char> = cut(&page.text, SECTION_MAX * SECTIONS_MAX).chars().collect();
    for piece in text.chunks(SECTION_MAX) {
        blocks.push(json!({"type": "section", "text": plain(piece.iter().collect())}));
    }
    let escaped = cut(&title, HEADER_MAX).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    to_vec(&json!({"text": escaped, "blocks": blocks}))
}

/// Alerts of the API v2: one, with the same labels from its beginning to its end.
pub(super) fn alertmanager(page: &Page) -> Result<Vec<u8>, Error> {
    let mut alert = json!({
        "labels": {"alertname": "TidegatePage", "key": page.key, "source": source(page)},
        "annotations": {"summary": headline(page), "description": cut(&page.text, TEXT_MAX)},
    });
    match page.kind {
        PageKind::Opened => {
            alert["startsAt"] = json!(page.at.to_string());
            alert["endsAt"] = json!((page.at + HOLDS).to_string());
        }
        PageKind::Resolved => alert["endsAt"] = json!(page.at.to_string()),
    }
    to_vec(&json!([alert]))
}

/// The first line, which says when a matter is over.
pub(super) fn headline(page: &Page) -> String {
    match page.kind {
        PageKind::Opened => page.title.clone(),
        PageKind::Resolved => format!("Over: {}", page.title),
    }
}

/// The pipeline or team that it is about.
fn source(page: &Page) -> &str {
    page.key.split('/').next().unwrap_or_default()
}

/// At most so many characters, with a mark where something is missing.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max - 3).chain("...".chars()).collect(),
    }
}

/// A key of at most so many characters that is still nobody else's.
fn key(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let digest = hex(&Sha256::digest(text.as_bytes()));
    let begin: String = text.chars().take(max - digest.len() - 1).collect();
    format!("{begin}/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tidegate_core::units::Timestamp;

    fn page(kind: PageKind) -> Page {
        Page {
            key: "app/rollback/r7".to_owned(),
            severity: Severity::High,
            title: "app: r7 is rolled back".to_owned(),
            text: "What: \"a <!channel> & more\"\nWhy: an alarm".to_owned(),
            at: Timestamp(1_700_000_000_000),
            to: Vec::new(),
            kind,
            about: None,
        }
    }

    fn read(body: Result<Vec<u8>, Error>) -> Value {
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    #[test]
    fn pagerduty_s_events_open_and_resolve_under_one_key() {
        expect_test::expect![[r#"
            {
              "client": "tidegate",
              "dedup_key": "app/rollback/r7",
              "event_action": "trigger",
              "payload": {
                "component": "app",
                "custom_details": {
                  "text": "What: \"a <!channel> & more\"\nWhy: an alarm"
                },
                "severity": "critical",
                "source": "app",
                "summary": "app: r7 is rolled back",
                "timestamp": "2023-11-14T22:13:20.000Z"
              },
              "routing_key": "secret"
            }"#]]
        .assert_eq(&format!("{:#}", read(pagerduty(&page(PageKind::Opened), "secret"))));
        expect_test::expect![[
            r#"{"dedup_key":"app/rollback/r7","event_action":"resolve","routing_key":"secret"}"#
        ]]
        .assert_eq(&read(pagerduty(&page(PageKind::Resolved), "secret")).to_string());
    }

    #[test]
    fn slack_s_messages_mention_nobody_and_say_what_is_over() {
        expect_test::expect![[r#"
            {
              "blocks": [
                {
                  "text": {
                    "emoji": false,
                    "text": "app: r7 is rolled back",
                    "type": "plain_text"
                  },
                  "type": "header"
                },
                {
                  "text": {
                    "emoji": false,
                    "text": "What: \"a <!channel> & more\"\nWhy: an alarm",
                    "type": "plain_text"
                  },
                  "type": "section"
                }
              ],
              "text": "app: r7 is rolled back"
            }"#]]
        .assert_eq(&format!("{:#}", read(slack(&page(PageKind::Opened)))));
        let over = read(slack(&Page { title: "<!here>".to_owned(), ..page(PageKind::Resolved) }));
        assert_eq!(over["text"], "Over: &lt;!here&gt;");
    }

    #[test]
    fn an_alertmanager_s_alert_has_the_same_labels_until_its_end() {
        let [opened, over] =
            [PageKind::Opened, PageKind::Resolved].map(|kind| read(alertmanager(&page(kind))));
        assert_eq!(opened[0]["labels"], over[0]["labels"]);
        assert_eq!(opened[0]["labels"]["key"], "app/rollback/r7");
        assert_eq!(
            (&opened[0]["startsAt"], &opened[0]["endsAt"]),
            (&json!("2023-11-14T22:13:20.000Z"), &json!("2023-11-15T22:13:20.000Z"))
        );
        assert_eq!(
            (&over[0]["startsAt"], &over[0]["endsAt"]),
            (&Value::Null, &json!("2023-11-14T22:13:20.000Z"))
        );
    }

    #[test]
    fn every_limit_is_kept_and_a_long_key_is_still_its_own() {
        let long = |end: &str| Page {
            key: format!("app/{}{end}", "k".repeat(400)),
            title: "\u{e9}".repeat(2_000),
            text: "\u{1f525}".repeat(100_000),
            ..page(PageKind::Opened)
        };
        let count = |value: &Value| value.as_str().unwrap().chars().count();
        let (one, other) = (read(pagerduty(&long("1"), "k")), read(pagerduty(&long("2"), "k")));
        assert_eq!((count(&one["dedup_key"]), count(&one["payload"]["summary"])), (255, 1_024));
        assert_ne!(one["dedup_key"], other["dedup_key"]);
        let message = read(slack(&long("")));
        let blocks = message["blocks"].as_array().unwrap();
        assert_eq!(blocks.len(), 1 + SECTIONS_MAX);
        assert_eq!(count(&blocks[0]["text"]["text"]), 150);
        assert!(blocks[1..].iter().all(|block| count(&block["text"]["text"]) <= 3_000));
        for body in [pagerduty(&long(""), "k"), slack(&long("")), alertmanager(&long(""))] {
            assert!(body.unwrap().len() <= super::super::BODY_MAX_BYTES);
        }
    }
}
