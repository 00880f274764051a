//! What of the team's own world tidegate talks to.

use crate::forge::Forge;
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

/// Where a source's changes are reviewed before they are merged: approvals that were given there count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReviewDef {
    /// Pull requests of GitHub, or of what answers its API.
    Github(GithubDef),
    /// Merge requests of GitLab.
    Gitlab(GitlabDef),
}

/// A repository on GitHub, a GitHub Enterprise Server, Gitea or Forgejo.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GithubDef {
    /// `owner/name`.
    pub repository: String,
    /// Before `/repos`: `https://HOST/api/v3` of an Enterprise Server, `https://HOST/api/v1` of Gitea or Forgejo.
    #[serde(default = "GithubDef::default_api")]
    pub api: String,
    /// The name of the secret that holds a token which may read the repository and its pull requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretName>,
    /// The name of the secret that its webhook signs with; without one no webhook is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SecretName>,
}

impl GithubDef {
    fn default_api() -> String {
        "https://api.github.com".to_owned()
    }
}

/// A project on GitLab.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitlabDef {
    /// Its path with all of its groups, such as `acme/web/shop`.
    pub project: String,
    /// Before `/projects`.
    #[serde(default = "GitlabDef::default_api")]
    pub api: String,
    /// The name of the secret that holds a token with the scope `read_api`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretName>,
    /// The name of the secret that its webhook signs with, or tells; without one no webhook is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SecretName>,
}

impl GitlabDef {
    fn default_api() -> String {
        "https://gitlab.com/api/v4".to_owned()
    }
}

impl ReviewDef {
    /// Whose API it is.
    #[must_use]
    pub fn forge(&self) -> Forge {
        match self {
            ReviewDef::Github(_) => Forge::Github,
            ReviewDef::Gitlab(_) => Forge::Gitlab,
        }
    }

    /// The repository, or the project.
    #[must_use]
    pub fn repository(&self) -> &str {
        match self {
            ReviewDef::Github(def) => &def.repository,
            ReviewDef::Gitlab(def) => &def.project,
        }
    }

    /// Where its API is.
    #[must_use]
    pub fn api(&self) -> &str {
        match self {
            ReviewDef::Github(def) => &def.api,
            ReviewDef::Gitlab(def) => &def.api,
        }
    }

    /// The secret that opens the API.
    #[must_use]
    pub fn token(&self) -> Option<&SecretName> {
        match self {
            ReviewDef::Github(def) => def.token.as_ref(),
            ReviewDef::Gitlab(def) => def.token.as_ref(),
        }
    }

    /// The secret of its webhook.
    #[must_use]
    pub fn webhook(&self) -> Option<&SecretName> {
        match self {
            ReviewDef::Github(def) => def.webhook.as_ref(),
            ReviewDef::Gitlab(def) => def.webhook.as_ref(),
        }
    }
}

/// The names that a person has elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Accounts {
    /// On GitHub, or what answers its API; compared without regard to case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github: Option<String>,
    /// On GitLab; compared without regard to case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gitlab: Option<String>,
}

impl Accounts {
    /// The name on this forge.
    #[must_use]
    pub fn on(&self, forge: Forge) -> Option<&str> {
        match forge {
            Forge::Github => self.github.as_deref(),
            Forge::Gitlab => self.gitlab.as_deref(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.github.is_none() && self.gitlab.is_none()
    }
}
