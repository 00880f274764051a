//! The doctor: what is well is called so, and each thing that can be wrong is found when it really is.

use crate::world::{Told, World, can_have_a_disk, definitions, run, words};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

fn doctor(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.arg("doctor").arg("--json").arg("--data").arg(data).args(arguments);
    command
}

/// The checks by name: how each came out, what was seen, and what to do.
fn checks(told: &Told) -> BTreeMap<String, (String, String, String)> {
    let answer: Value = serde_json::from_str(&told.out).unwrap_or_else(|_| panic!("{told:?}"));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let all = answer["checks"].as_array().unwrap();
    let failed = all.iter().any(|check| check["health"] == "fail");
    assert_eq!((told.code, &answer["well"]), (i32::from(failed), &json!(!failed)), "{told:?}");
    all.iter().map(|c| (text(c, "name"), (text(c, "health"), text(c, "seen"), text(c, "mend")))).collect()
}

/// That one check comes out so, and says this; the others are well, or nearly.
#[track_caller]
fn only(told: &Told, name: &str, health: &str, says: &str) {
    let checks = checks(told);
    let (found, seen, mend) = &checks[name];
    assert!(found == health && seen.contains(says), "{name}: {checks:#?}");
    assert!(!mend.is_empty(), "{name} says how to mend it");
    let others: Vec<_> = checks.iter().filter(|(n, (h, ..))| *n != name && h == "fail").collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn what_is_wrong_with_a_data_directory_and_its_server_is_found() {
    let world = World::start();
    let data = world.data();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let well = run(&mut doctor(&data, &[]));
    let found = checks(&well);
    assert_eq!(well.code, 0, "{found:#?}");
    for name in [
        "git",
        "sandbox",
        "evaluator",
        "data-directory",
        "permissions",
        "disk",
        "store",
        "fleet",
        "server",
        "clock",
    ] {
        assert_eq!(found[name].0, "ok", "{name}: {found:#?}");
    }
    let mut for_people = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for_people
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .arg("doctor")
        .arg("--data")
        .arg(&data);
    let told = run(&mut for_people).well();
    assert!(told.contains("ok    server") && told.contains("it serves at http://127.0.0.1:"), "{told}");

    // Others may read it; it belongs to somebody else.
    let tokens = data.join("tokens.json");
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o644)).unwrap();
    only(&run(&mut doctor(&data, &[])), "permissions", "fail", "tokens.json has mode 644");
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&tokens, Some(65_534), None).unwrap();
        only(&run(&mut doctor(&data, &[])), "permissions", "fail", "tokens.json belongs to user 65534");
        chown(&tokens, Some(0), None).unwrap();
    }
    // Whoever is neither that user nor root is told so, and nothing that is not true.
    if rustix::process::geteuid().is_root() {
        let as_nobody = |arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.arg(env!("CARGO_BIN_EXE_tidegate")).args(arguments).arg("--data").arg(&data);
            run(&mut command)
        };
        // Where the program lies in a folder of root's, nobody cannot start it.
        let there = as_nobody(&["--version"]).code == 0;
        if !there {
            eprintln!("SKIPPED: nobody cannot start the program, or enter the test's folder");
        }
        let commands = [&["doctor"][..], &["status"], &["fleet", "status"], &["log"], &["gc"]];
        for command in commands.iter().filter(|_| there) {
            let told = as_nobody(command);
            let all = words(&format!("{}{}", told.out, told.talk));
            let says = "belongs to root, and this is nobody: run it as root";
            assert!(told.code == 1 && all.contains(says), "{command:?}: {told:?}");
        }
        // Nor does root work for another one: it would leave files that the other one cannot use.
        chown(data.join("store"), Some(65_534), None).unwrap();
        let told = world.refused(&data, &[]);
        assert!(told.talk.contains("belongs to nobody, and this is root: run it as nobody"), "{told:?}");
        chown(data.join("store"), Some(0), None).unwrap();
    }
    let folder = world.dir().join("backup");
    world.cli(&["backup", folder.to_str().unwrap()]).well();
    let (health, seen, _) = checks(&run(&mut doctor(&data, &[]))).remove("backup").unwrap();
    assert!(health == "ok" && seen.contains("the last one was made at "), "{seen}");
    // Nobody takes pages.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut organisation = definitions::organisation();
    organisation["teams"][0]["pages"] = json!([{"webhook": format!("http://{free}/page")}]);
    world.apply("organisation", &organisation).well();
    only(&run(&mut doctor(&data, &[])), "reach", "fail", &format!("{free}: "));
    assert!(!run(&mut doctor(&data, &[])).out.contains("/page"), "the rest of a URL may be a secret");
    let listener = TcpListener::bind(free).unwrap();
    assert_eq!(checks(&run(&mut doctor(&data, &[])))["reach"].0, "ok");
    drop(listener);
    world.apply("organisation", &definitions::organisation()).well();

    // The port of an endpoint is taken by somebody else; the fleet is there, and silent.
    let repo = world.repo("shop");
    world.land(&repo, &[]);
    world.apply("app", &definitions::application(&repo)).well();
    world.until_passed("app", 1);
    let endpoint = world.endpoint("shop", "beta", "eu");
    // The server starts it again at once.
    let thief = world.until("the port is stolen", || {
        world.stop_fleet_alone();
        TcpListener::bind(endpoint.trim_start_matches("http://")).ok()
    });
    world.until("the fleet runs again", || world.fleet_pid());
    let port = thief.local_addr().unwrap().port();
    let says = format!("nobody can call port {port}: ");
    world.until("it is told", || run(&mut doctor(&data, &[])).out.contains(&says).then_some(()));
    only(&run(&mut doctor(&data, &[])), "fleet", "fail", &says);
    world.until("the status tells it as well", || {
        let status = words(&world.cli(&["status"]).well());
        status
            .contains("TROUBLE nobody can call shop in beta/eu: the fleet cannot listen on port")
            .then_some(())
    });
    drop(thief);
    world.until("customers can call again", || {
        (checks(&run(&mut doctor(&data, &[])))["fleet"].0 == "ok").then_some(())
    });

    world.until("no trouble is left", || world.status().troubles.is_empty().then_some(()));

    // Without a server: what it left, and whether one could start.
    world.end_server();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    only(&run(&mut doctor(&data, &["--listen", &listen])), "server", "fail", "cannot be listened on");
    drop(taken);
    let at_rest = run(&mut doctor(&data, &["--listen", &listen]));
    let found = checks(&at_rest);
    assert_eq!((found["server"].0.as_str(), found["backup"].0.as_str()), ("warn", "ok"), "{found:#?}");
    // The newest entry of the log is of a time to come.
    let database = data.join("store/tidegate.db");
    let change = |sql: &str| Connection::open(&database).unwrap().execute(sql, []).unwrap();
    change("UPDATE facts SET at = at + 7200000 WHERE position = (SELECT MAX(position) FROM facts)");
    let told = run(&mut doctor(&data, &["--listen", &listen]));
    only(&told, "clock", "fail", "before the newest entry of the log: time stands still");
    change("UPDATE facts SET at = at - 7200000 WHERE position = (SELECT MAX(position) FROM facts)");
    // A copy, a newer version's store, and half a restore.
    change("UPDATE meta SET value = 'file 1' WHERE id = 'home'");
    let told = run(&mut doctor(&data, &["--listen", &listen]));
    only(&told, "store", "warn", "this data directory is a copy of another one");
    change("UPDATE refinery_schema_history SET version = 99 WHERE version = 2");
    only(&run(&mut doctor(&data, &["--listen", &listen])), "store", "fail", "was written by a newer version");
    change("UPDATE refinery_schema_history SET version = 2 WHERE version = 99");
    fs::write(data.join("restoring"), "").unwrap();
    only(&run(&mut doctor(&data, &["--listen", &listen])), "store", "fail", "a restore was interrupted");
}

#[test]
fn what_is_wrong_with_the_machine_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let nothing = run(&mut doctor(&data, &["--listen", "127.0.0.1:0"]));
    only(&nothing, "data-directory", "fail", "is not there");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let found = checks(&run(doctor(&data, &["--listen", "127.0.0.1:0"]).env("PATH", dir.path())));
    assert!(found["git"].0 == "fail" && found["git"].1.contains("git cannot be started"), "{found:#?}");
    assert_eq!(found["sandbox"].0, "fail", "{found:#?}");
    let mut few = Command::new("sh");
    few.args(["-c", r#"ulimit -n 1000 && exec "$@""#, "sh", env!("CARGO_BIN_EXE_tidegate")]);
    few.args(["doctor", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    only(&run(&mut few), "open-files", "warn", "a process may have 1000 open files");
    if !can_have_a_disk() {
        return;
    }
    // A disk that is nearly full, and one that cannot be written.
    let on = |options: &str| {
        let mut command = Command::new("unshare");
        command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" });
        let script = r#"mount -t tmpfs -o "$1,mode=700" none "$2" && shift 2 && exec "$@""#;
        command.args(["sh", "-c", script, "sh", options]).arg(&data).arg(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["doctor", "--json", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        run(&mut command)
    };
    only(&on("size=8m"), "disk", "fail", "MiB are free for");
    only(&on("size=1g,nr_inodes=100"), "disk", "warn", "files can be made");
    let found = checks(&on("size=1g,ro"));
    assert!(found["data-directory"].0 == "fail", "{found:#?}");
    assert!(found["data-directory"].1.contains("Read-only file system"), "{found:#?}");
}

#[test]
fn a_server_that_cannot_listen_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let told = run(serve.args(["serve", "--listen", &listen, "--data"]).arg(dir.path()));
    assert!(told.code == 1 && told.talk.contains(&format!("failed to listen on {listen}")), "{told:?}");
    assert!(!dir.path().join("fleet/fleet.sock").exists(), "no fleet was started");
}
