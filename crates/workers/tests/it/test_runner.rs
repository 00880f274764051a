//! A stage's tests with real packages and processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_core::definition::TestSpec;
use tidegate_core::ids::PackageDigest;
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{ExternalParameters, PackItem, PackageStore, Provenance, SigningKey, pack};
use tidegate_workers::test_runner::{TestError, TestResult, TestRun, run_test};

struct Fixture {
    dir: tempfile::TempDir,
    store: PackageStore,
    key: SigningKey,
    package: PackageDigest,
}

impl Fixture {
    /// A package whose test is this script.
    fn new(script: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = PackageStore::open(&dir.path().join("packages")).unwrap();
        let key = SigningKey::load_or_create(&dir.path().join("key"), &dir.path().join("pub")).unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("itest"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(source.join("itest"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("temp")).unwrap();
        let mut tar = Vec::new();
        pack(&[PackItem { from: source, to: PathBuf::new() }], &mut tar).unwrap();
        let parameters = ExternalParameters { steps: Vec::new(), dependencies_key: None };
        let provenance = Provenance::new(parameters, Vec::new(), key.key_id(), Timestamp(0), Timestamp(1));
        let package = store.put(&tar[..], "app", provenance, &key).unwrap();
        Fixture { dir, store, key, package }
    }

    fn test(&self, time_limit: Span) -> TestRun {
        let control = self.dir.path().join("control").display().to_string();
        TestRun {
            spec: TestSpec { name: "itest".to_owned(), run: vec!["./itest".to_owned(), control], time_limit },
            package: self.package.clone(),
            service: "frontend".parse().unwrap(),
            environment: "beta".parse().unwrap(),
            region: "eu-1".parse().unwrap(),
            endpoints: BTreeMap::from([("back-end".parse().unwrap(), "http://127.0.0.1:1234".to_owned())]),
            log: self.dir.path().join("itest.log"),
        }
    }

    async fn run(&self, test: &TestRun, cancel: impl Future<Output = ()>) -> Result<TestResult, TestError> {
        let temp = self.dir.path().join("temp");
        let result = run_test(&self.store, &self.key.trusted(), &temp, test, cancel).await;
        assert_eq!(fs::read_dir(temp).unwrap().count(), 0, "nothing is left on disk");
        result
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("itest.log")).unwrap()
    }
}

fn never() -> impl Future<Output = ()> {
    std::future::pending()
}

#[tokio::test]
async fn a_test_knows_its_endpoints_and_has_a_low_priority() {
    let fixture = Fixture::new(
        r#"echo "$TIDEGATE_ENDPOINT_BACK_END $TIDEGATE_ENVIRONMENT $TIDEGATE_REGION $TIDEGATE_SERVICE"
           pwd | grep -qx "$TIDEGATE_PACKAGE_DIR" && touch "$TIDEGATE_TEST_DIR/x" && nice
           env | cut -d = -f 1 | grep -v -e TIDEGATE -e '^_$' | sort | tr '\n' ' '"#,
    );
    let result = fixture.run(&fixture.test(Span::minutes(1)), never()).await.unwrap();
    assert_eq!(result, TestResult::Passed);
    let log = fixture.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "http://127.0.0.1:1234 beta eu-1 frontend");
    assert!(lines[1].parse::<i32>().unwrap() >= 10, "{log}");
    assert_eq!(lines[2].trim_end(), "HOME PATH PWD", "the rest of the environment is not passed on");
}

#[tokio::test]
async fn a_failing_test_tells_how_it_ended_and_is_not_repeated() {
    let fixture = Fixture::new("echo try >> $1; echo expected 3, got 4; exit 7");
    let expected = TestResult::Failed {
        exit: "exit status: 7".to_owned(),
        last_lines: vec!["expected 3, got 4".to_owned()],
    };
    assert_eq!(fixture.run(&fixture.test(Span::minutes(1)), never()).await.unwrap(), expected);
    assert_eq!(fs::read_to_string(fixture.dir.path().join("control")).unwrap().lines().count(), 1);
}

/// Whether a process whose id the script wrote down is there.
fn is_alive(fixture: &Fixture) -> bool {
    let pid = fs::read_to_string(fixture.dir.path().join("control")).unwrap();
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

const HANGS: &str =
    "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > $0; while :; do sleep 1; done' $1 & echo waits; wait";

#[tokio::test]
async fn a_hanging_test_is_ended_with_all_that_it_started() {
    let fixture = Fixture::new(HANGS);
    let result = fixture.run(&fixture.test(Span::seconds(3)), never()).await.unwrap();
    assert_eq!(result, TestResult::TimedOut { last_lines: vec!["waits".to_owned()] });
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while is_alive(&fixture) {
        assert!(std::time::Instant::now() < deadline, "its child lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cancelled_test_is_ended() {
    let fixture = Fixture::new(HANGS);
    let control = fixture.dir.path().join("control");
    let running = async {
        while !control.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let test = fixture.test(Span::minutes(1));
    let result = tokio::time::timeout(Duration::from_secs(30), fixture.run(&test, running)).await.unwrap();
    assert!(matches!(result, Err(TestError::Cancelled { .. })));
}

#[tokio::test]
async fn what_says_nothing_about_the_release_is_an_error() {
    let fixture = Fixture::new("true");
    let mut test = fixture.test(Span::minutes(1));
    test.spec.run = vec!["./no-such-program".to_owned()];
    let error = fixture.run(&test, never()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot run test 'itest'");
    let tar = fixture.dir.path().join(format!("packages/{}.tar", fixture.package));
    fs::write(tar, "other bytes").unwrap();
    let error = fixture.run(&fixture.test(Span::minutes(1)), never()).await.unwrap_err();
    assert!(matches!(error, TestError::Package { source, .. } if source.is_tampering()));
}
