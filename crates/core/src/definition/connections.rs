//! What of the team's own world tidegate talks to.

use crate::ids::SecretName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A destination for pages. All but a webhook are told as well when what they were paged for is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PageTarget {
    /// A URL that gets each page as a JSON POST.
    Webhook(String),
    /// PagerDuty, by its Events API v2.
    Pagerduty(PagerDutyDef),
    /// A channel of Slack, by an incoming webhook.
    Slack(SlackDef),
    /// An Alertmanager, which sends it on.
    Alertmanager(AlertmanagerDef),
    /// A mail, by SMTP.
    Email(EmailDef),
}

/// A service of PagerDuty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PagerDutyDef {
    /// The name of the secret that holds the integration's routing key.
    pub routing_key: SecretName,
    /// Where events go, if not to PagerDuty's own address: to whatever else takes them in this format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A channel of Slack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlackDef {
    /// The name of the secret that holds the incoming webhook's URL: whoever knows it can write there.
    pub url: SecretName,
}

/// An Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerDef {
    /// Before `/api/v2/alerts`, such as `http://alertmanager.acme.test:9093`.
    pub url: String,
}

/// Somebody's mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailDef {
    /// Who gets it.
    pub to: String,
    /// Who it comes from.
    pub from: String,
    /// The mail server, such as `smtp.acme.test:587`.
    pub server: String,
    /// How the connection is kept private.
    #[serde(default)]
    pub tls: MailTls,
    /// Who logs in at the mail server; nobody without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The name of the secret that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
}

/// How a connection to a mail server is kept private.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MailTls {
    /// It begins in the clear and becomes private before anything is said, or fails.
    #[default]
    Starttls,
    /// It is private from the beginning.
    Tls,
    /// It is not: for a server on the same machine.
    None,
}

/// A Prometheus, or whatever answers its HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrometheusDef {
    /// Before `/api/v1/query`, such as `http://prometheus.acme.test:9090`.
    pub url: String,
    /// The name of a secret that is sent as the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
}
