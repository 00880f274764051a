//! Names of things. Every id is a newtype that is parsed once, at the edge; a value of one of these types is valid.
//!
//! Ids that people write are lower-case words (`[a-z0-9]`, then `[a-z0-9-]`, at most 63 characters), so that they
//! fit in paths, URLs, environment variables and DNS labels without escaping. A copy shares its text: states are full of
//! names and are copied at every decision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {what}: {why}")]
pub struct InvalidId {
    /// What was expected, such as `team name`.
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

fn check_word(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let fail = |why| Err(InvalidId { what, text: text.chars().take(80).collect(), why });
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > 63 {
        return fail("it is longer than 63 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return fail("only a-z, 0-9 and '-' may stand in it");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return fail("it may not begin or end with '-'");
    }
    Ok(())
}

fn check_hex64(what: &'static str, text: &str) -> Result<(), InvalidId> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(());
    }
    Err(InvalidId {
        what,
        text: text.chars().take(80).collect(),
        why: "64 lower-case hexadecimal digits are expected",
    })
}

fn check_commit(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hex && (text.len() == 40 || text.len() == 64) {
        return Ok(());
    }
    Err(InvalidId {
        what,
        text: text.chars().take(80).collect(),
        why: "40 or 64 lower-case hexadecimal digits are expected",
    })
}

/// The text of a name. Most that are compared are copies of one another, which need not be read.
#[derive(Clone, Eq)]
pub(crate) struct Text(pub(crate) Arc<str>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        #[schemars(with = "String")]
        pub struct $name(Text);

        impl $name {
            /// Parses and checks the text.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                $check($what, &text)?;
                Ok(Self(Text(text.into())))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

string_id!(
    /// A person with a token.
    UserId, "user name", check_word);
string_id!(
    /// A team: it owns services and reviews their changes.
    TeamId, "team name", check_word);
string_id!(
    /// A service: what customers (or other services) call.
    ServiceId, "service name", check_word);
string_id!(
    /// A pipeline. It is also the name of the slot that it fills on its targets.
    PipelineId, "pipeline name", check_word);
string_id!(
    /// One of a pipeline's sources.
    SourceId, "source name", check_word);
string_id!(
    /// An environment: beta, gamma, production.
    EnvironmentId, "environment name", check_word);
string_id!(
    /// A Region of the organisation's central list (C2).
    RegionId, "Region name", check_word);
string_id!(
    /// An Availability Zone or cell, unique within its Region.
    AzId, "Availability Zone name", check_word);
string_id!(
    /// A stage of a pipeline: `beta`, `gamma`, `wave-1`.
    StageId, "stage name", check_word);
string_id!(
    /// The name under which a secret is kept on the server.
    SecretName, "secret name", check_word);
string_id!(
    /// A package: the SHA-256 of its bytes.
    PackageDigest, "package digest", check_hex64);
string_id!(
    /// A RunSpec: the SHA-256 of its canonical JSON.
    RunSpecDigest, "RunSpec digest", check_hex64);
string_id!(
    /// A git commit: its full object name.
    CommitId, "commit", check_commit);

impl CommitId {
    /// The first ten digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.as_str()[..10]
    }
}

impl PackageDigest {
    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.as_str()[..12]
    }
}

/// A release's number in its pipeline; releases of a pipeline are totally ordered by it. Shown as `r7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ReleaseNo(pub u64);

impl fmt::Display for ReleaseNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Debug for ReleaseNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for ReleaseNo {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix('r').unwrap_or(text).parse().map(Self).map_err(|_| InvalidId {
            what: "release",
            text: text.chars().take(80).collect(),
            why: "a release is written as r and a number, such as r7",
        })
    }
}

/// Whether a target is an AZ's main fleet or the Region's permanent one-box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The Region's one-box: one permanent box in the Region's first AZ, at most 10 % of its requests (P4).
    OneBox,
    /// All other boxes of one AZ or cell.
    Main,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::OneBox => "one-box",
            Role::Main => "main",
        })
    }
}

/// One fleet that a step deploys to. Written `service/environment/region/az/role`, such as
/// `frontend/production/eu-1/a/main`. Stable: it names no position in a plan.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct TargetId {
    /// The service whose boxes these are.
    pub service: ServiceId,
    /// The environment that the target belongs to.
    pub environment: EnvironmentId,
    /// Its Region.
    pub region: RegionId,
    /// Its AZ or cell.
    pub az: AzId,
    /// One-box or main fleet.
    pub role: Role,
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{}", self.service, self.environment, self.region, self.az, self.role)
    }
}

impl fmt::Debug for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TargetId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| InvalidId { what: "target", text: text.chars().take(200).collect(), why };
        let parts: Vec<&str> = text.split('/').collect();
        let [service, environment, region, az, role] = parts[..] else {
            return Err(invalid("service/environment/region/az/role is expected"));
        };
        Ok(Self {
            service: service.parse()?,
            environment: environment.parse()?,
            region: region.parse()?,
            az: az.parse()?,
            role: match role {
                "one-box" => Role::OneBox,
                "main" => Role::Main,
                _ => return Err(invalid("its role must be 'main' or 'one-box'")),
            },
        })
    }
}

impl TryFrom<String> for TargetId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<TargetId> for String {
    fn from(id: TargetId) -> String {
        id.to_string()
    }
}

/// Part of a target: what one pipeline puts there. Code, configuration, static assets and infrastructure of a
/// service meet on the same target, each in the slot of its pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlotId {
    /// The target.
    pub target: TargetId,
    /// The pipeline whose slot it is.
    pub pipeline: PipelineId,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.target, self.pipeline)
    }
}
