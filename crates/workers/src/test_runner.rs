//! Runs a stage's tests (T2): a command from the verified package, in a folder of its own, against an environment's
//! endpoints. What must hold: nothing of a test outlives it, and it takes no CPU from what serves. A test runs code
//! of the package that is deployed with the same rights, so it is limited like a team's command and not sandboxed
//! like a build: it needs the network.

use crate::process::{Ending, Finished, Job, ProcessError};
use crate::secrets::Masker;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use tidegate_core::definition::TestSpec;
use tidegate_core::ids::{EnvironmentId, PackageDigest, RegionId, ServiceId};
use tidegate_fleet::package::{PackageError, PackageStore, TrustedKeys};

/// So many lines of the output's end go with a failure.
pub const LAST_LINES: usize = 20;
/// The longest of those lines, in characters.
const LINE_MAX: usize = 500;

/// What is tested, with what, where. The test's environment is `TIDEGATE_SERVICE`, `TIDEGATE_ENVIRONMENT`,
/// `TIDEGATE_REGION`, `TIDEGATE_PACKAGE_DIR`, `TIDEGATE_TEST_DIR` (empty, removed afterwards) and for each endpoint
/// `TIDEGATE_ENDPOINT_<SERVICE>` (upper case, '-' as '_'); it runs in the unpacked package.
#[derive(Debug, Clone)]
pub struct TestRun {
    /// The test.
    pub spec: TestSpec,
    /// Where its command is: the package that is tested.
    pub package: PackageDigest,
    /// The service that is tested.
    pub service: ServiceId,
    /// In this environment.
    pub environment: EnvironmentId,
    /// In this Region.
    pub region: RegionId,
    /// Where the services are, such as `http://127.0.0.1:8080`.
    pub endpoints: BTreeMap<ServiceId, String>,
    /// The log that is kept.
    pub log: PathBuf,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TestResult {
    /// It ended with status 0.
    Passed,
    /// It ended otherwise, or printed without end.
    Failed {
        /// How it ended, for people.
        exit: String,
        /// The end of its output.
        last_lines: Vec<String>,
    },
    /// It was ended after its time limit.
    TimedOut {
        /// The end of its output.
        last_lines: Vec<String>,
    },
}

/// Why a test could not be run: this says nothing about the release.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The package cannot be had.
    #[error("cannot prepare the package for test '{test}'")]
    Package {
        /// The test's name.
        test: String,
        /// Why not.
        source: PackageError,
    },
    /// The folders of the run cannot be made.
    #[error("cannot make a folder for test '{test}'")]
    Dir {
        /// The test's name.
        test: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It cannot be started.
    #[error("cannot run test '{test}'")]
    Process {
        /// The test's name.
        test: String,
        /// Why not.
        source: ProcessError,
    },
    /// The caller wanted no more of it.
    #[error("test '{test}' was cancelled")]
    Cancelled {
        /// The test's name.
        test: String,
    },
}

/// Runs a test once, at most until `cancel` is ready: a test that passes only sometimes is not passed over. `temp` is the folder for what
/// the run needs on disk; it must be there.
///
/// # Errors
/// When the test could not be run.
pub async fn run_test(
    store: &PackageStore,
    keys: &TrustedKeys,
    temp: &Path,
    test: &TestRun,
    cancel: impl Future<Output = ()>,
) -> Result<TestResult, TestError> {
    let name = || test.spec.name.clone();
    let dir = unpack(store.clone(), keys.clone(), temp.to_owned(), test).await?;
    let finished = job(test, dir.path())
        .run(cancel)
        .await
        .map_err(|source| TestError::Process { test: name(), source })?;
    if finished.ending == Ending::Cancelled {
        return Err(TestError::Cancelled { test: name() });
    }
    Ok(result(&finished))
}

async fn unpack(
    store: PackageStore,
    keys: TrustedKeys,
    temp: PathBuf,
    test: &TestRun,
) -> Result<tempfile::TempDir, TestError> {
    let (name, digest) = (test.spec.name.clone(), test.package.clone());
    let unpack = move || {
        let dir = tempfile::Builder::new().prefix("test-").tempdir_in(temp);
        let dir = dir.map_err(|source| TestError::Dir { test: name.clone(), source })?;
        let package = |source| TestError::Package { test: name.clone(), source };
        store
            .verify(&digest, &keys)
            .and_then(|verified| verified.unpack(&dir.path().join("package")))
            .map_err(package)?;
        std::fs::create_dir(dir.path().join("work"))
            .map_err(|source| TestError::Dir { test: name.clone(), source })?;
        Ok(dir)
    };
    let failed = |e| TestError::Dir { test: test.spec.name.clone(), source: std::io::Error::other(e) };
    tokio::task::spawn_blocking(unpack).await.map_err(failed)?
}

fn job(test: &TestRun, dir: &Path) -> Job {
    let package = dir.join("package");
    let own = [
        ("TIDEGATE_SERVICE", test.service.to_string()),
        ("TIDEGATE_ENVIRONMENT", test.environment.to_string()),
        ("TIDEGATE_REGION", test.region.to_string()),
        ("TIDEGATE_PACKAGE_DIR", package.display().to_string()),
        ("TIDEGATE_TEST_DIR", dir.join("work").display().to_string()),
    ];
    let endpoints = test.endpoints.iter().map(|(service, url)| {
        let name = service.as_str().to_ascii_uppercase().replace('-', "_");
        (format!("TIDEGATE_ENDPOINT_{name}"), url.clone())
    });
    Job {
        command: test.spec.run.clone(),
        dir: package,
        env: own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(endpoints).collect(),
        time_limit: test.spec.time_limit.into(),
        niced: true,
        inherits: None,
        log: Some(test.log.clone()),
        capture_max_bytes: None,
        mask: Masker::default(),
    }
}

fn result(finished: &Finished) -> TestResult {
    let shorten = |line: String| line.chars().take(LINE_MAX).collect();
    let last_lines: Vec<String> = finished.last_lines(LAST_LINES).into_iter().map(shorten).collect();
    match finished.ending {
        Ending::Exited(status) if status.success() => TestResult::Passed,
        Ending::Exited(status) => TestResult::Failed { exit: status.to_string(), last_lines },
        Ending::TimedOut => TestResult::TimedOut { last_lines },
        Ending::Flooded => TestResult::Failed { exit: "it printed too much".to_owned(), last_lines },
        Ending::Cancelled => TestResult::Failed { exit: "it was cancelled".to_owned(), last_lines },
    }
}
