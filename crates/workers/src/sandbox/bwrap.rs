//! The command line of bubblewrap: what a sandboxed command sees of the machine.

use super::Room;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The user inside; outside it is the server's user, without any capability.
const USER_ID: &str = "1000";
/// What `/dev/shm` may hold, in MiB.
const SHM_MIB: u64 = 64;
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// What of `/etc` commands need to find libraries, tools and certificates.
const ETC: [&str; 7] =
    ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl", "ca-certificates", "pki"];
const ETC_WITH_NETWORK: [&str; 2] = ["resolv.conf", "hosts"];
/// The descriptor of the first of [`ETC_FILES`]; 3 and 4 are bubblewrap's options and reports.
const ETC_FD_FIRST: usize = 5;
const ETC_FILES: [(&str, &str); 3] = [
    (
        "passwd",
        "root:x:0:0::/root:/bin/sh\nbuild:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("group", "root:x:0:\nbuild:x:1000:\nnogroup:x:65534:\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// What to do about a machine on which a trial ended with `why`.
pub(super) fn hint(why: &str) -> &'static str {
    if why.contains("No such file") || why.contains("not found") {
        "install it: apt-get install bubblewrap"
    } else if why.contains("Unknown option") {
        "bubblewrap 0.8 or newer is needed"
    } else {
        "user namespaces must be usable: see sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces and \
         kernel.apparmor_restrict_unprivileged_userns, or run the server as root"
    }
}

/// What a shell has to do before it becomes bubblewrap: opens a descriptor for each of the small files of `/etc`, from
/// which bubblewrap copies it. So nothing of them lies on the host's disk, however a run ends.
pub(super) fn etc_descriptors() -> String {
    let open =
        |(n, (_, text)): (usize, (&str, &str))| format!("exec {}<<'END'\n{text}END\n", ETC_FD_FIRST + n);
    ETC_FILES.into_iter().enumerate().map(open).collect()
}

struct Args(Vec<u8>);

impl Args {
    fn add<const N: usize>(&mut self, args: [&dyn AsRef<std::ffi::OsStr>; N]) {
        for arg in args {
            self.0.extend_from_slice(arg.as_ref().as_bytes());
            self.0.push(0);
        }
    }
}

/// The options, each ended by NUL, as bubblewrap's `--args` takes them: they hold the environment, which no command
/// line may show. An argument with a NUL of its own would be read as two, and is refused before.
pub(super) fn options(room: &Room) -> std::io::Result<Vec<u8>> {
    let mut args = Args(Vec::new());
    args.add([
        &"--unshare-all",
        &"--unshare-user",
        &"--disable-userns",
        &"--die-with-parent",
        &"--new-session",
    ]);
    args.add([&"--cap-drop", &"ALL", &"--hostname", &"build", &"--uid", &USER_ID, &"--gid", &USER_ID]);
    if room.network {
        args.add([&"--share-net"]);
    }
    system(&mut args, room);
    for tool in &room.tool_paths {
        args.add([&"--ro-bind", tool, tool]);
    }
    for bind in &room.binds {
        args.add([if bind.writable { &"--bind" } else { &"--ro-bind" }, &bind.from, &bind.to]);
    }
    args.add([&"--remount-ro", &"/", &"--chdir", &room.cwd, &"--clearenv"]);
    let path = search_path(&room.tool_paths);
    let defaults: [(&str, &Path); 6] = [
        ("PATH", Path::new(&path)),
        ("HOME", Path::new("/tmp")),
        ("LANG", Path::new("C.UTF-8")),
        ("TZ", Path::new("UTC")),
        ("USER", Path::new("build")),
        ("TERM", Path::new("dumb")),
    ];
    for (name, value) in defaults {
        args.add([&"--setenv", &name, &value]);
    }
    for (name, value) in &room.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(std::io::Error::other(format!("'{name}' is no valid environment variable")));
        }
        args.add([&"--setenv", name, value]);
    }
    Ok(args.0)
}

fn system(args: &mut Args, room: &Room) {
    args.add([&"--ro-bind", &"/usr", &"/usr"]);
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(target) => args.add([&"--symlink", &target, &path]),
            Err(_) if path.is_dir() => args.add([&"--ro-bind", &path, &path]),
            Err(_) => {}
        }
    }
    let from_host = ETC.iter().chain(if room.network { &ETC_WITH_NETWORK[..] } else { &[] });
    for path in from_host.map(|name| Path::new("/etc").join(name)) {
        args.add([&"--ro-bind-try", &path, &path]);
    }
    for (n, (name, _)) in ETC_FILES.into_iter().enumerate() {
        args.add([&"--ro-bind-data", &(ETC_FD_FIRST + n).to_string(), &Path::new("/etc").join(name)]);
    }
    let mib = |n: u64| (n << 20).to_string();
    // Where the server is root, the command has root's user id and so its rights to files: below /proc/sys it could
    // change the host.
    args.add([&"--proc", &"/proc", &"--remount-ro", &"/proc", &"--dev", &"/dev"]);
    args.add([&"--size", &mib(SHM_MIB), &"--tmpfs", &"/dev/shm", &"--remount-ro", &"/dev"]);
    let tmp = mib((room.limits.memory_mib / 2).max(1));
    args.add([&"--perms", &"1777", &"--size", &tmp, &"--tmpfs", &"/tmp"]);
}

fn search_path(tools: &[PathBuf]) -> OsString {
    let mut path = OsString::new();
    for tool in tools {
        let bin = tool.join("bin");
        path.push(if bin.is_dir() { &bin } else { tool });
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}
