//! One call of the git command line, in a world of its own.
//!
//! What must hold: nothing of the machine's or a user's git configuration, hooks, helpers or environment has any
//! influence; every call ends in bounded time with its whole process group gone, also when its future is dropped.

use super::GitError;
use crate::secrets::{Masker, Secret};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};

/// The most that a call may print, in bytes: the ids of a million commits.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// What is kept of a call's complaints, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 16 * 1024;
/// How much of a complaint stands in an error, in characters.
const MESSAGE_CHARS_MAX: usize = 2_000;
/// The user name that goes with a token which comes without one; hosts ignore it or ask for just this.
const TOKEN_USER: &str = "x-access-token";

pub(super) const KEY_PREFIX: &str = ".key-";

/// Where git reads the settings that are ours. A file, and not the command line or `GIT_CONFIG_COUNT`, as the
/// processes that git starts for a `file` source would lose those.
pub(super) const SETTINGS_FILE: &str = "tidegate.gitconfig";

const SETTINGS: &str = "\
[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tattributesFile = /dev/null
\texcludesFile = /dev/null
\tfsmonitor = false
\taskPass =
\tautocrlf = false
[protocol]
\tallow = never
[protocol \"file\"]
\tallow = always
[protocol \"https\"]
\tallow = always
[protocol \"http\"]
\tallow = always
[protocol \"ssh\"]
\tallow = always
[protocol \"git\"]
\tallow = always
[http]
\tlowSpeedLimit = 100
\tlowSpeedTime = 60
[fetch]
\trecurseSubmodules = false
[submodule]
\trecurse = false
[gc]
\tautoDetach = false
[maintenance]
\tautoDetach = false
[i18n]
\tlogOutputEncoding = UTF-8
";

/// How git is called for one mirror.
pub(super) struct Git {
    pub(super) dir: PathBuf,
    url: String,
    secret: Option<Secret>,
    masker: Masker,
}

/// What a call has left.
pub(super) struct Finished {
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// Masked, on one line, limited.
    pub(super) message: String,
}

impl Finished {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Kills the process group when the call is over, whatever way it ends.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Usually nobody is left, and that is fine.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Git {
    pub(super) fn new(dir: &Path, url: &str, secret: Option<Secret>) -> Git {
        let mut parts = Vec::new();
        if let Some(secret) = &secret {
            parts.push(secret.clone());
            // The password alone is as secret as the pair.
            parts.extend(secret.expose().split_once(':').and_then(|(_, p)| Secret::new(p).ok()));
        }
        Git { dir: dir.to_owned(), url: url.to_owned(), secret, masker: Masker::new(&parts) }
    }

    pub(super) fn settings(&self) -> String {
        let mut settings = SETTINGS.to_owned();
        if let (true, Some(host)) = (self.secret.is_some(), http_origin(&self.url)) {
            // Only for this host: a redirect to another one gets nothing.
            settings += &format!(
                "[credential \"{host}\"]\n\thelper = \"!f() {{ test \\\"$1\\\" = get && printf \
                 'username=%s\\\\npassword=%s\\\\n' \\\"$TIDEGATE_GIT_USER\\\" \
                 \\\"$TIDEGATE_GIT_PASSWORD\\\"; }}; f\"\n"
            );
        }
        settings
    }

    fn command(&self, args: &[&str], env: &[(&str, &Path)], key: Option<&Path>) -> Command {
        let mut command = Command::new("git");
        command.env_clear().args(args).current_dir(&self.dir).process_group(0).kill_on_drop(true);
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
        for (name, value) in [
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_DIR", "."),
        ] {
            command.env(name, value);
        }
        command.env("GIT_CONFIG_GLOBAL", self.dir.join(SETTINGS_FILE));
        command.env("GIT_SSH_COMMAND", self.ssh_command(key));
        if let (Some(secret), true) = (&self.secret, http_origin(&self.url).is_some()) {
            let (user, password) = secret.expose().split_once(':').unwrap_or((TOKEN_USER, secret.expose()));
            command.env("TIDEGATE_GIT_USER", user).env("TIDEGATE_GIT_PASSWORD", password);
        }
        for (name, value) in env {
            command.env(name, value);
        }
        command
    }

    fn ssh_command(&self, key: Option<&Path>) -> String {
        let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let hosts = quote(&self.dir.join("known_hosts"));
        let mut command = format!(
            "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30 \
             -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={hosts}"
        );
        if let Some(key) = key {
            command += &format!(" -o IdentitiesOnly=yes -i {}", quote(key));
        }
        command
    }

    /// A private key has to be a file while ssh runs; it is gone when the call is over.
    fn key_file(&self) -> Result<Option<tempfile::NamedTempFile>, GitError> {
        let Some(secret) = self.secret.as_ref().filter(|s| s.expose().starts_with("-----BEGIN")) else {
            return Ok(None);
        };
        let write = || {
            let mut file = tempfile::Builder::new().prefix(KEY_PREFIX).tempfile_in(&self.dir)?;
            file.write_all(secret.expose().as_bytes())?;
            std::io::Result::Ok(file)
        };
        write().map(Some).map_err(|source| GitError::Mirror { path: self.dir.clone(), source })
    }

    /// Runs git and collects what it prints.
    pub(super) async fn run(
        &self,
        args: &[&str],
        env: &[(&str, &Path)],
        time: Duration,
    ) -> Result<Finished, GitError> {
        self.run_with(args, env, &[], time, async |mut stdout| {
            let mut bytes = Vec::new();
            (&mut stdout).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await?;
            if bytes.len() as u64 == OUTPUT_BYTES_MAX {
                return Err(std::io::Error::other("it prints more than 64 MiB"));
            }
            Ok(bytes)
        })
        .await
        .map(|(stdout, finished)| Finished { stdout, ..finished })
    }

    /// Runs git with `input`, and lets `read` take what it prints.
    pub(super) async fn run_with<T>(
        &self,
        args: &[&str],
        env: &[(&str, &Path)],
        input: &[u8],
        time: Duration,
        read: impl AsyncFnOnce(ChildStdout) -> std::io::Result<T>,
    ) -> Result<(T, Finished), GitError> {
        let call = || args.first().copied().unwrap_or_default().to_owned();
        let fail = |source| GitError::Call { call: call(), source };
        let key = self.key_file()?;
        let mut command = self.command(args, env, key.as_ref().map(tempfile::NamedTempFile::path));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fail)?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let result = tokio::time::timeout(time, talk(&mut child, input, read)).await;
        drop(group);
        let (out, complaint, status) =
            result.map_err(|_| GitError::TimeLimit { call: call(), limit: time })?.map_err(fail)?;
        let message = self.masker.mask(&String::from_utf8_lossy(&complaint));
        let message: String = message.trim().chars().take(MESSAGE_CHARS_MAX).collect();
        let message = message.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        Ok((out, Finished { code: status.code(), stdout: Vec::new(), message }))
    }
}

async fn talk<T>(
    child: &mut Child,
    input: &[u8],
    read: impl AsyncFnOnce(ChildStdout) -> std::io::Result<T>,
) -> std::io::Result<(T, Vec<u8>, std::process::ExitStatus)> {
    let missing = || std::io::Error::other("a pipe is missing");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let write = async move {
        // A git that has enough closes its end; what it thinks of it shows in its exit code.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let ((), out, complaint) = tokio::join!(write, read(stdout), read_complaint(stderr));
    let out = out?;
    Ok((out, complaint?, child.wait().await?))
}

async fn read_complaint(mut stderr: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut stderr).take(COMPLAINT_BYTES_MAX).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// `https://host:port` of an http or https URL.
fn http_origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    (matches!(scheme, "http" | "https") && plain).then(|| format!("{scheme}://{host}"))
}
