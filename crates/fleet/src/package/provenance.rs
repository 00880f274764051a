//! What a package says of its own making: an in-toto Statement (v1) with a SLSA Provenance predicate (v1).
//!
//! The field names are those of the two specifications, so that other tools read them too. These types are a
//! persisted format: fields are added, never renamed or removed, and unknown ones are ignored.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidegate_core::ids::{CommitId, PackageDigest};
use tidegate_core::units::Timestamp;

/// The type of an in-toto Statement, version 1.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of a SLSA Provenance predicate, version 1.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// Says how `externalParameters` are to be read: as [`ExternalParameters`].
pub const BUILD_TYPE: &str = "urn:tidegate:build:v1";

/// Instead of [`BUILD_TYPE`] for what was not built: somebody's word is all that speaks for it.
pub const IMPORT_TYPE: &str = "urn:tidegate:import:v1";

/// Ties a predicate to the artefacts that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// The package: exactly one.
    pub subject: Vec<ResourceDescriptor>,
    /// Always [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// How the package was made.
    pub predicate: Provenance,
}

impl Statement {
    /// The statement that `package` (called `name` by people) was made as `predicate` says.
    #[must_use]
    pub fn new(name: &str, package: &PackageDigest, predicate: Provenance) -> Statement {
        Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: vec![ResourceDescriptor {
                name: Some(name.to_owned()),
                uri: None,
                digest: BTreeMap::from([("sha256".to_owned(), package.to_string())]),
            }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate,
        }
    }
}

/// An artefact: a package, or a source at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceDescriptor {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it comes from, such as `git+https://host/repository`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Algorithm and value, such as `sha256` or `gitCommit`.
    pub digest: BTreeMap<String, String>,
}

impl ResourceDescriptor {
    /// A source at a commit. `url` must be free of secrets: it is stored and shown.
    #[must_use]
    pub fn git(name: &str, url: &str, commit: &CommitId) -> ResourceDescriptor {
        ResourceDescriptor {
            name: Some(name.to_owned()),
            uri: Some(format!("git+{url}")),
            digest: BTreeMap::from([("gitCommit".to_owned(), commit.to_string())]),
        }
    }
}

/// SLSA Provenance, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// What went in.
    pub build_definition: BuildDefinition,
    /// Who made it, and when.
    pub run_details: RunDetails,
}

impl Provenance {
    /// A build by this version of tidegate from `sources` by `parameters`.
    #[must_use]
    pub fn new(
        parameters: ExternalParameters,
        sources: Vec<ResourceDescriptor>,
        builder_key_id: &str,
        started: Timestamp,
        finished: Timestamp,
    ) -> Provenance {
        let version = env!("CARGO_PKG_VERSION");
        Provenance {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: parameters,
                resolved_dependencies: sources,
            },
            run_details: RunDetails {
                builder: Builder { id: format!("urn:tidegate:builder:{version}:{builder_key_id}") },
                metadata: BuildMetadata {
                    started_on: started.to_string(),
                    finished_on: finished.to_string(),
                },
            },
        }
    }
}

impl Provenance {
    /// What was not built but ran before tidegate, by the word of `by`, who handed it over from the folder `from`.
    #[must_use]
    pub fn imported(by: &str, from: &str, key_id: &str, at: Timestamp) -> Provenance {
        let from = ResourceDescriptor {
            name: Some(format!("handed over by {by}")),
            uri: Some(format!("file://{from}")),
            digest: BTreeMap::new(),
        };
        let mut provenance = Provenance::new(ExternalParameters::default(), vec![from], key_id, at, at);
        IMPORT_TYPE.clone_into(&mut provenance.build_definition.build_type);
        provenance
    }
}

/// What went into a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// [`BUILD_TYPE`] or [`IMPORT_TYPE`].
    pub build_type: String,
    /// What the pipeline's definition asked for.
    pub external_parameters: ExternalParameters,
    /// Each source with its commit.
    pub resolved_dependencies: Vec<ResourceDescriptor>,
}

/// What the pipeline's definition asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalParameters {
    /// The commands that ran, with those of the fetch step, in order.
    pub steps: Vec<StepRecord>,
    /// The key of the fetched dependencies: SHA-256 over the fetch commands and the lock files; absent without fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies_key: Option<String>,
}

/// One command of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name in the definition.
    pub name: String,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Whether it had network (only `fetch` has).
    pub network: bool,
}

/// Who made it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetails {
    /// The builder.
    pub builder: Builder,
    /// When it ran.
    pub metadata: BuildMetadata,
}

/// The builder: tidegate's version and the id of the key that it signs with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// `urn:tidegate:builder:<version>:<key id>`.
    pub id: String,
}

/// When a build ran: RFC 3339, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildMetadata {
    /// When the first command was started.
    pub started_on: String,
    /// When the last one had ended.
    pub finished_on: String,
}
