//! The sandbox: real commands in a real bubblewrap.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_workers::sandbox::{Bind, Limits, Log, Outcome, Room, Sandbox, SandboxError};
use tidegate_workers::secrets::{Masker, Secret};

/// However slow the machine is: what has a limit ends before this.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    dir: tempfile::TempDir,
    room: Room,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let limits = Limits {
        cpu_seconds: 30,
        memory_mib: 256,
        processes: 64,
        time: Duration::from_secs(30),
        output_bytes: 1 << 20,
        disk_mib: 16,
    };
    let room = Room {
        binds: vec![Bind { from: work, to: "/work".into(), writable: true }],
        tool_paths: Vec::new(),
        network: false,
        cwd: "/work".into(),
        env: BTreeMap::new(),
        limits,
    };
    Fixture { dir, room }
}

async fn sandbox() -> Sandbox {
    Sandbox::check(Path::new("bwrap")).await.unwrap()
}

fn bash(script: &str) -> Vec<String> {
    ["bash", "-c", script].map(str::to_owned).to_vec()
}

/// Runs a script; what came of it, and what it said.
async fn run(sandbox: &Sandbox, room: &Room, script: &str) -> (Outcome, String) {
    let log = Log::in_memory();
    let started = Instant::now();
    let outcome = sandbox.run(room.clone(), &bash(script), &log).await.unwrap();
    assert!(started.elapsed() < PATIENCE, "{outcome} only after {:?}", started.elapsed());
    (outcome, log.tail(1_000))
}

/// Whether some process of this machine has `word` in its command line or environment.
fn somewhere(word: &str) -> bool {
    let own = std::process::id().to_string();
    fs::read_dir("/proc").unwrap().flatten().filter(|e| e.file_name() != own.as_str()).any(|entry| {
        ["cmdline", "environ"].into_iter().any(|file| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            bytes.windows(word.len()).any(|w| w == word.as_bytes())
        })
    })
}

fn cgroups_left() -> Vec<PathBuf> {
    let own = format!("tidegate-{}-", std::process::id());
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&own) {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_sees_its_folders_and_little_else() {
    let mut f = fixture();
    f.room.env = [("GREETING".to_owned(), "good day".to_owned())].into();
    let tools = f.dir.path().join("tools");
    fs::create_dir_all(tools.join("bin")).unwrap();
    fs::write(tools.join("bin/own-tool"), "#!/bin/sh\necho tool runs\n").unwrap();
    fs::set_permissions(tools.join("bin/own-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    f.room.tool_paths = vec![tools.clone()];
    fs::write(f.dir.path().join("host-file"), "private").unwrap();
    let script = format!(
        "echo $GREETING; id -un; hostname; pwd; own-tool; echo made > made; cat /dev/stdin
        for path in /x /usr/x /etc/x /dev/x {tools}/x /proc/sys/kernel/hostname /proc/sysrq-trigger; do
          if : >> $path; then echo wrote $path; fi
        done 2> /dev/null
        ls {host} 2>&1 | grep -v tools; ls /home /root /sys 2>/dev/null
        unshare -U true 2> /dev/null && echo namespaces
        grep -c . /proc/net/dev; env | cut -d= -f1 | sort | tr '\\n' ' '",
        tools = tools.display(),
        host = f.dir.path().display(),
    );
    let (outcome, said) = run(&sandbox().await, &f.room, &script).await;
    expect_test::expect![[r#"
        good day
        build
        build
        /work
        tool runs
        3
        GREETING HOME LANG PATH PWD SHLVL TERM TZ USER _ "#]]
    .assert_eq(&said);
    assert_eq!(outcome, Outcome::Exited(0));
    assert_eq!(fs::read_to_string(f.dir.path().join("work/made")).unwrap(), "made\n");
}

#[tokio::test]
async fn ends_are_told_apart() {
    let f = fixture();
    let s = sandbox().await;
    assert_eq!(run(&s, &f.room, "exit 7").await.0, Outcome::Exited(7));
    assert_eq!(run(&s, &f.room, "kill -TERM $$").await.0, Outcome::Signaled(15));
    let log = Log::in_memory();
    let outcome = s.run(f.room.clone(), &["no-such-program".to_owned()], &log).await.unwrap();
    let Outcome::NotStarted(why) = outcome else { panic!("{outcome}") };
    assert!(why.contains("no-such-program: No such file"), "{why}");
    let mut room = f.room.clone();
    room.binds[0].from = f.dir.path().join("missing");
    let (outcome, _) = run(&s, &room, "true").await;
    assert!(matches!(outcome, Outcome::NotStarted(_)), "{outcome}");
}

#[tokio::test]
async fn without_network_nothing_is_reachable_and_with_it_the_host_is() {
    let f = fixture();
    let s = sandbox().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo loopback
         getent hosts example.com >/dev/null && echo dns
         test -s /etc/resolv.conf && echo resolver; true"
    );
    assert_eq!(run(&s, &f.room, &script).await, (Outcome::Exited(0), String::new()));
    let open = Room { network: true, ..f.room };
    let (outcome, said) = run(&s, &open, &script).await;
    assert_eq!(outcome, Outcome::Exited(0));
    assert!(said.contains("loopback"), "{said}");
    listener.accept().unwrap();
}

#[tokio::test]
async fn bombs_floods_and_hangs_end_clearly_with_cgroups_and_without() {
    let f = fixture();
    let with = sandbox().await;
    for s in [with.clone(), with.without_cgroups()] {
        let short = |change: &dyn Fn(&mut Limits)| {
            let mut room = f.room.clone();
            change(&mut room.limits);
            room
        };
        let bomb = "b() { b | b & }; b; sleep 31541592";
        assert_eq!(run(&s, &f.room, bomb).await.0, Outcome::ProcessLimit);
        assert_eq!(run(&s, &f.room, "tail /dev/zero").await.0, Outcome::MemoryLimit);
        let (outcome, said) = run(&s, &f.room, "yes").await;
        assert_eq!(outcome, Outcome::OutputLimit);
        assert!(said.len() <= 1 << 20);
        let hang = short(&|l| l.time = Duration::from_millis(300));
        assert_eq!(run(&s, &hang, "trap '' TERM; sleep 31541592").await.0, Outcome::TimeLimit);
        let busy = short(&|l| l.cpu_seconds = 1);
        assert_eq!(run(&s, &busy, "while :; do :; done").await.0, Outcome::CpuLimit);
        let busy = "for i in 1 2; do (while :; do :; done) & done; wait";
        assert_eq!(run(&s, &short(&|l| l.cpu_seconds = 1), busy).await.0, Outcome::CpuLimit);
        let many = "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > file$i; done";
        assert_eq!(run(&s, &f.room, many).await.0, Outcome::DiskLimit);
        let one = "exec head -c 1G /dev/zero > one";
        assert_eq!(run(&s, &f.room, one).await.0, Outcome::DiskLimit);
        // What is left in the background is ended with the command.
        let left = "setsid sleep 31541592 > /dev/null 2>&1 < /dev/null & echo done";
        assert_eq!(run(&s, &f.room, left).await, (Outcome::Exited(0), "done".to_owned()));
        assert!(!somewhere("31541592"));
        for entry in fs::read_dir(f.dir.path().join("work")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[tokio::test]
async fn a_dropped_run_is_killed_and_no_command_line_shows_the_environment() {
    let mut f = fixture();
    let s = sandbox().await;
    f.room.env = [("TOKEN".to_owned(), "tok-8412793".to_owned())].into();
    let log = Log::in_memory();
    let script = bash("echo ready; unset TOKEN; exec env -i sleep 27182818");
    let task = tokio::spawn({
        let (room, log) = (f.room.clone(), log.clone());
        async move { s.run(room, &script, &log).await }
    });
    eventually("it becomes ready", || log.tail(1) == "ready" && somewhere("27182818")).await;
    // The shell that still has it in its environment is gone as soon as it has become what it runs.
    eventually("no command line and no environment shows it", || !somewhere("tok-8412793")).await;
    task.abort();
    eventually("it is killed", || !somewhere("27182818")).await;
    eventually("its groups are removed", || cgroups_left().is_empty()).await;
}

#[tokio::test]
#[ignore = "the test below starts it in a process of its own, and kills that"]
async fn a_server_that_is_killed() {
    let f = fixture();
    run(&sandbox().await, &f.room, "trap '' TERM HUP; setsid sleep 16180339 & sleep 16180339").await;
}

#[tokio::test]
async fn a_run_ends_with_the_server_that_is_killed() {
    let name = "sandbox::a_server_that_is_killed";
    let mut server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("it runs", || somewhere("sleep\x0016180339")).await;
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("nothing is left", || !somewhere("16180339")).await;
}

#[tokio::test]
async fn secrets_are_masked_in_the_log_and_the_log_grows_while_it_runs() {
    let f = fixture();
    let path = f.dir.path().join("log");
    let log = Log::create(&path, Masker::new(&[Secret::new("hunter2").unwrap()])).unwrap();
    let fifo = f.dir.path().join("work/fifo");
    let script = bash("mkfifo fifo; printf 'the hun'; cat fifo; printf 'ter2 came'");
    let s = sandbox().await;
    let run = tokio::spawn({
        let (room, log) = (f.room.clone(), log.clone());
        async move { s.run(room, &script, &log).await.unwrap() }
    });
    eventually("the beginning is there", || fs::read_to_string(&path).unwrap() == "the " && fifo.exists())
        .await;
    tokio::task::spawn_blocking(move || fs::write(fifo, "").unwrap()).await.unwrap();
    assert_eq!(run.await.unwrap(), Outcome::Exited(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "the [secret] came\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn without_a_working_sandbox_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("bwrap");
    fs::write(&broken, "#!/bin/sh\necho 'bwrap: No permissions to create new namespace'; exit 1\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    // One that runs the command without any sandbox is seen through: it reports no sandboxed process.
    let fake = dir.path().join("fake");
    fs::write(&fake, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let mut shown = String::new();
    for program in [dir.path().join("missing"), broken, fake] {
        let error = Sandbox::check(&program).await.unwrap_err();
        assert!(matches!(error, SandboxError::Unavailable { .. }));
        shown += &format!("{error}\n").replace(&dir.path().display().to_string(), "DIR");
    }
    expect_test::expect![[r#"
        no sandbox is available on this machine: ionice: failed to execute DIR/missing: No such file or directory (install it: apt-get install bubblewrap)
        no sandbox is available on this machine: bwrap: No permissions to create new namespace (user namespaces must be usable: see sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, or run the server as root)
        no sandbox is available on this machine: the sandbox ended with exit status: 42 (user namespaces must be usable: see sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns, or run the server as root)
    "#]].assert_eq(&shown);
}
