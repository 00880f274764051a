//! Builds: real repositories, a real sandbox, a real compiler.

use crate::git::Repo;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_core::definition::{BuildDef, BuildLimits, BuildStep as Step, PackagePath};
use tidegate_core::ids::CommitId;
use tidegate_core::units::{Span, Timestamp};
use tidegate_fleet::package::{PackageStore, SigningKey};
use tidegate_workers::build::{BuildFailure, BuildPlan, BuildSource, Builder, BuiltPackage};
use tidegate_workers::git::Mirror;
use tidegate_workers::sandbox::{Log, Outcome, Sandbox};
use tidegate_workers::secrets::{Masker, Secret};

struct Fixture {
    repo: Repo,
    mirror: Arc<Mirror>,
    store: PackageStore,
    key: Arc<SigningKey>,
    builder: Builder,
}

impl Fixture {
    async fn new() -> Fixture {
        let repo = Repo::new();
        let mirror = Arc::new(repo.mirror().await);
        let at = |name: &str| repo.dir.path().join(name);
        let store = PackageStore::open(&at("packages")).unwrap();
        let key = Arc::new(SigningKey::load_or_create(&at("key"), &at("key.pub")).unwrap());
        let sandbox = Sandbox::check(Path::new("bwrap")).await.unwrap();
        let builder = Builder::open(sandbox, store.clone(), key.clone(), &at("work"), &at("cache")).unwrap();
        Fixture { repo, mirror, store, key, builder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.repo.dir.path().join(name)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.repo.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    async fn source(&self, id: &str, commit: CommitId) -> BuildSource {
        self.mirror.fetch().await.unwrap();
        BuildSource {
            id: id.parse().unwrap(),
            mirror: self.mirror.clone(),
            commit,
            committed: Timestamp(1_700_000_000_123),
        }
    }

    /// Commits what there is and builds it.
    async fn build_with(
        &self,
        plan: &BuildDef,
        secrets: &[(&str, &str)],
    ) -> (Result<BuiltPackage, BuildFailure>, String) {
        let source = self.source("app", self.repo.commit("change")).await;
        let secrets: BTreeMap<String, Secret> =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value).unwrap())).collect();
        let path = self.path("log");
        let log = Log::create(&path, Masker::new(secrets.values())).unwrap();
        let plan = BuildPlan { definition: plan.clone(), tool_paths: vec![sysroot()] };
        let result = self.builder.build("app", &plan, &[source], &secrets, &log).await;
        (result, fs::read_to_string(&path).unwrap())
    }

    async fn build(&self, plan: &BuildDef) -> (Result<BuiltPackage, BuildFailure>, String) {
        self.build_with(plan, &[]).await
    }

    fn unpack(&self, built: &BuiltPackage) -> PathBuf {
        let to = tempfile::tempdir_in(self.repo.dir.path()).unwrap().keep().join("unpacked");
        self.store.verify(&built.digest, &self.key.trusted()).unwrap().unpack(&to).unwrap();
        to
    }
}

fn step(name: &str, script: &str) -> Step {
    Step { name: name.to_owned(), run: ["bash", "-euc", script].map(str::to_owned).to_vec() }
}

fn plan(script: &str) -> BuildDef {
    BuildDef {
        steps: vec![step("make", script)],
        package: vec![PackagePath { from: "out".into(), to: "out".into() }],
        limits: BuildLimits {
            time: Span::minutes(2),
            cpu_seconds: 60,
            memory_mib: 1_024,
            processes: 128,
            output_mib: 1,
            file_mib: 512,
        },
        fetch: Vec::new(),
        lock_files: Vec::new(),
        environment: BTreeMap::new(),
    }
}

fn sysroot() -> PathBuf {
    let out = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// What a program prints that was just unpacked. A child that another thread forked meanwhile holds the open file
/// until it executes something itself; so long the system calls the program busy.
fn output_of(program: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Command::new(program).output() {
            Ok(output) => return String::from_utf8(output.stdout).unwrap(),
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn a_crate_is_built_offline_into_a_signed_package_that_runs() {
    let f = Fixture::new().await;
    f.write("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    f.write("Cargo.lock", "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"1.0.0\"\n");
    f.write(
        "src/main.rs",
        "fn main() { println!(\"hello\"); }\n#[test]\nfn two() { assert_eq!(1 + 1, 2); }\n",
    );
    f.write("static/page.html", "<p>hello");
    let cargo = |name: &str, args: &[&str]| Step {
        name: name.to_owned(),
        run: ["cargo"].iter().chain(args).map(|a| (*a).to_owned()).collect(),
    };
    let plan = BuildDef {
        steps: vec![
            cargo("compile", &["build", "--release", "--offline", "--locked", "-j1"]),
            cargo("test", &["test", "--offline", "--locked", "-j1"]),
        ],
        package: vec![
            PackagePath { from: "target/release/hello".into(), to: "bin/hello".into() },
            PackagePath { from: "static".into(), to: "static".into() },
        ],
        environment: [("CARGO_HOME".to_owned(), "/tmp/cargo".to_owned())].into(),
        ..plan("")
    };
    let (built, log) = f.build(&plan).await;
    let built = built.unwrap_or_else(|e| panic!("{e}: {log}"));
    assert!(log.contains("test two ... ok"), "{log}");
    let root = f.unpack(&built);
    assert_eq!(output_of(&root.join("bin/hello")), "hello\n");
    assert_eq!(fs::read_to_string(root.join("static/page.html")).unwrap(), "<p>hello");
    assert!(!built.fetched);
    assert_eq!(fs::read_dir(f.path("work")).unwrap().count(), 0);

    let package = f.store.verify(&built.digest, &f.key.trusted()).unwrap();
    let made = &package.provenance().predicate;
    assert_eq!(*made, built.provenance);
    let source = &made.build_definition.resolved_dependencies[0];
    assert_eq!(source.uri, Some(format!("git+{}", f.repo.url())));
    assert_eq!(source.digest["gitCommit"], f.repo.git(&["rev-parse", "HEAD"]));
    assert_eq!(made.build_definition.external_parameters.steps[1].run[1], "test");
    assert!(made.run_details.builder.id.ends_with(f.key.key_id()));

    // Another commit with the same content gives the same bytes.
    let (again, log) = f.build(&plan).await;
    assert_eq!(again.unwrap_or_else(|e| panic!("{e}: {log}")).digest, built.digest);
}

/// Answers every connection with `dependency`, and counts them.
fn registry() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"dependency");
        }
    });
    (port, count)
}

#[tokio::test]
async fn dependencies_are_fetched_once_and_are_all_that_the_steps_get_from_outside() {
    let f = Fixture::new().await;
    f.write("lock", "1");
    let (port, fetches) = registry();
    let get = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let plan = BuildDef {
        fetch: vec![step(
            "fetch",
            &format!("{get}; cat <&3 > /cache/dep; echo \"token is ${{TOKEN-}}\"; touch /src/x 2>/dev/null && exit 6; true"),
        )],
        lock_files: vec!["lock".into()],
        ..plan(&format!(
            "({get}) 2>/dev/null && exit 7; getent hosts localhost.example.com && exit 8
             test -z \"${{TOKEN-}}\"; touch $TIDEGATE_CACHE/x 2>/dev/null && exit 9
             mkdir out; cp /cache/dep out/; echo $SOURCE_DATE_EPOCH > out/date; echo $TIDEGATE_COMMIT > out/commit"
        ))
    };
    let (built, log) = f.build_with(&plan, &[("TOKEN", "tok-secret")]).await;
    let built = built.unwrap_or_else(|e| panic!("{e}: {log}"));
    assert!(built.fetched);
    assert!(log.contains("token is [secret]") && !log.contains("tok-secret"), "{log}");
    let root = f.unpack(&built);
    let text = |name: &str| fs::read_to_string(root.join("out").join(name)).unwrap();
    assert_eq!((text("dep"), text("date")), ("dependency".to_owned(), "1700000000\n".to_owned()));
    assert_eq!(text("commit").trim(), f.repo.git(&["rev-parse", "HEAD"]));
    assert!(built.provenance.build_definition.external_parameters.dependencies_key.is_some());

    let (again, log) = f.build(&plan).await;
    assert!(!again.unwrap_or_else(|e| panic!("{e}: {log}")).fetched);
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    f.write("lock", "2");
    let (changed, log) = f.build(&plan).await;
    assert!(changed.unwrap_or_else(|e| panic!("{e}: {log}")).fetched);
    assert_eq!(fetches.load(Ordering::SeqCst), 2);

    // A fetch that fails leaves nothing that a later build would take for whole.
    f.write("lock", "3");
    let broken = BuildDef { fetch: vec![step("fetch", "echo half > /cache/dep; exit 9")], ..plan.clone() };
    for _ in 0..2 {
        let (failed, _) = f.build(&broken).await;
        let Err(BuildFailure::Step { step, outcome, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!((step.as_str(), outcome), ("fetch", Outcome::Exited(9)));
    }
    // Its folder is removed aside.
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(f.path("cache")).unwrap().count() > 2 {
        assert!(Instant::now() < deadline, "a failed fetch's folder stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fs::read_dir(f.path("cache")).unwrap().count(), 2);
}

#[tokio::test]
async fn failures_name_the_step_its_end_and_its_last_words() {
    let f = Fixture::new().await;
    f.write("file", "x");
    let limits = BuildLimits { processes: 48, memory_mib: 128, ..plan("").limits };
    let brief = BuildLimits { time: Span(300), ..limits.clone() };
    let cases = [
        ("echo compiling; echo 'error: no' >&2; exit 3", limits.clone(), Outcome::Exited(3)),
        ("b() { b | b & }; b; sleep 60", limits.clone(), Outcome::ProcessLimit),
        ("yes", limits.clone(), Outcome::OutputLimit),
        ("echo waiting; sleep 600", brief, Outcome::TimeLimit),
        ("tail /dev/zero", limits.clone(), Outcome::MemoryLimit),
    ];
    for (script, limits, expected) in cases {
        let (result, log) = f.build(&BuildDef { limits: limits.clone(), ..plan(script) }).await;
        let error = result.unwrap_err();
        assert!(error.is_fault_of_change());
        let BuildFailure::Step { step, outcome, last_lines } = error else { panic!("{error}") };
        assert_eq!((step.as_str(), &outcome), ("make", &expected));
        assert!(log.ends_with(&format!("== make {outcome}\n")), "{script}");
        assert!(log.len() < 2 << 20);
        if expected == Outcome::Exited(3) {
            assert!(last_lines.ends_with("compiling\nerror: no"), "{last_lines}");
        }
    }
    assert!(f.store.list().unwrap().is_empty());
    let (result, _) = f.build(&plan("mkdir out")).await;
    result.unwrap();
}

#[tokio::test]
async fn a_package_holds_nothing_from_outside_the_build() {
    let f = Fixture::new().await;
    fs::write(f.path("host-file"), "private").unwrap();
    symlink("/etc", f.repo.path().join("etc")).unwrap();
    let shown = |result: Result<BuiltPackage, BuildFailure>| {
        let error = result.unwrap_err();
        assert!(error.is_fault_of_change());
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}\n"),
            None => format!("{error}\n"),
        }
    };
    let from = |from: &str| BuildDef {
        package: vec![PackagePath { from: from.into(), to: "x".into() }],
        ..plan("mkdir out; ln -s /etc out/etc; ln -s ../../../host-file up")
    };
    let mut text = String::new();
    for path in ["missing", "/etc/passwd", "../../../host-file", "up", "etc/passwd", "out"] {
        text += &shown(f.build(&from(path)).await.0);
    }
    text += &shown(f.build(&BuildDef { package: vec![], ..plan("") }).await.0);
    text += &shown(f.build(&BuildDef { fetch: vec![step("get", "true")], ..plan("") }).await.0);
    let locks = vec!["etc/hostname".to_owned()];
    let fetch = vec![step("get", "true")];
    text += &shown(f.build(&BuildDef { fetch, lock_files: locks, ..plan("") }).await.0);
    let missing = BuildPlan { definition: plan(""), tool_paths: vec!["/missing".into()] };
    let log = Log::in_memory();
    text += &shown(f.builder.build("app", &missing, &[], &BTreeMap::new(), &log).await);
    expect_test::expect![[r#"
        'missing' is not usable as a part of the package: No such file or directory (os error 2)
        '/etc/passwd' is not usable as a part of the package: it is absolute; it must be relative to the sources
        '../../../host-file' is not usable as a part of the package: it leads out of the sources
        'up' is not usable as a part of the package: it leads out of the sources
        'etc/passwd' is not usable as a part of the package: it leads out of the sources
        the result cannot be packed: 'x/etc' is refused in a package: it is a link to an absolute path
        the build's definition cannot be carried out: nothing goes into the package
        the build's definition cannot be carried out: it has fetch steps and names no lock files, so they would never be repeated
        'etc/hostname' is not usable as a lock file: it leads out of the sources
        the build's definition cannot be carried out: tool path '/missing' is not an absolute path that exists
    "#]].assert_eq(&text);
}

#[tokio::test]
async fn several_sources_have_a_folder_each() {
    let f = Fixture::new().await;
    f.write("file", "one");
    let one = f.repo.commit("one");
    f.write("file", "two");
    let two = f.repo.commit("two");
    let sources = [f.source("app", one).await, f.source("config", two).await];
    let definition = plan("mkdir out; cat app/file config/file > out/both");
    let plan = BuildPlan { definition, tool_paths: Vec::new() };
    let log = Log::in_memory();
    let built = f.builder.build("app", &plan, &sources, &BTreeMap::new(), &log).await.unwrap();
    assert_eq!(fs::read_to_string(f.unpack(&built).join("out/both")).unwrap(), "onetwo");
    assert_eq!(built.provenance.build_definition.resolved_dependencies.len(), 2);

    // A package that was changed on the disk is refused by name.
    let path = f.path("packages").join(format!("{}.tar", built.digest));
    let mut bytes = fs::read(&path).unwrap();
    bytes[600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = f.store.verify(&built.digest, &f.key.trusted()).unwrap_err();
    assert!(error.is_tampering() && error.to_string().contains(built.digest.as_str()), "{error}");
}
