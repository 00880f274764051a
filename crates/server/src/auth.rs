//! Who is asking, and what they may do (design, "Who may"). Tokens are kept hashed in a file of mode 0600; the first
//! administrator's is made at the first start. What must hold: a token's text is told once and stored nowhere but in the
//! first administrator's file; a user whom the organisation does not know (any more) is nobody, whatever their token.
//!
//! The hash is SHA-256 and not a password hash on purpose: a token is 32 random bytes, so there is nothing to guess from
//! its hash, and every request hashes one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tidegate_core::definition::{OrgRole, OrganisationDef, TeamDef};
use tidegate_core::ids::{TeamId, UserId};
use tidegate_core::run_spec::hex;
use tidegate_core::units::Timestamp;

/// The most tokens; a new one beyond is refused.
pub const TOKENS_MAX: usize = 10_000;
/// The name of the first administrator, who exists before there is an organisation and whom no definition removes.
pub const BOOTSTRAP_ADMINISTRATOR: &str = "admin";
/// The file with all tokens' hashes, in the data folder.
pub const TOKENS_FILE: &str = "tokens.json";
/// The file with the first administrator's token, in the data folder.
pub const ADMIN_TOKEN_FILE: &str = "admin-token";

const TOKEN_PREFIX: &str = "tg_";
const TOKEN_BYTES: usize = 32;

/// Why tokens cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file system failed.
    #[error("failed to {what} {}", path.display())]
    File {
        /// Read, write or create.
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The tokens' file is not one of ours.
    #[error("{} is not a file of tokens that this version reads", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random(#[source] getrandom::Error),
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens already")]
    TooMany,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    version: u32,
    tokens: Vec<Kept>,
    /// The hash of a token of the first administrator that is being made, which counts once it stands in its own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    user: UserId,
    sha256: String,
    created_at: Timestamp,
}

/// All tokens.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    kept: Mutex<Vec<Kept>>,
}

impl Tokens {
    /// Reads the tokens in this folder; at the first start the folder and the first administrator's token are made.
    ///
    /// # Errors
    /// If a file cannot be read or written, or is not one of ours.
    pub fn open(data: &Path, now: Timestamp) -> Result<Tokens, AuthError> {
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed("create", data))?;
        let path = data.join(TOKENS_FILE);
        let (kept, pending) = match std::fs::read(&path) {
            Ok(bytes) => {
                let file: TokensFile = serde_json::from_slice(&bytes)
                    .map_err(|source| AuthError::Unreadable { path: path.clone(), source })?;
                (file.tokens, file.pending)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(source) => return Err(failed("read", &path)(source)),
        };
        let tokens = Tokens { path, kept: Mutex::new(kept) };
        if tokens.lock().is_empty() {
            tokens.renew_first(now)?;
        } else if let Some(pending) = pending {
            // There was a crash in the middle of a renewal: what stands in the file counts.
            let text = std::fs::read_to_string(data.join(ADMIN_TOKEN_FILE)).unwrap_or_default();
            let mut kept = tokens.lock();
            let all =
                if hash(text.trim()) == pending { renewed(&kept, pending, now).0 } else { kept.clone() };
            tokens.replace(&mut kept, all, None)?;
        }
        Ok(tokens)
    }

    /// Makes a new token for the first administrator, in a file of its own, and forgets those from before. Others may make
    /// tokens as well, but only while there is an organisation that names them; so this one has always one.
    ///
    /// # Errors
    /// If a file cannot be written. Where the second one cannot, the next start goes on.
    pub fn renew_first(&self, now: Timestamp) -> Result<usize, AuthError> {
        let token = random_token()?;
        // One renewal at a time, from its first file to its last.
        let mut kept = self.lock();
        let before = kept.clone();
        self.replace(&mut kept, before, Some(hash(&token)))?;
        write_private(&self.path.with_file_name(ADMIN_TOKEN_FILE), format!("{token}\n").as_bytes())?;
        let (all, forgotten) = renewed(&kept, hash(&token), now);
        self.replace(&mut kept, all, None)?;
        Ok(forgotten)
    }

    /// Makes a token. It is durable when this returns.
    ///
    /// # Errors
    /// If there are too many, or the file cannot be written; then there is no new token.
    pub fn create(&self, user: UserId, now: Timestamp) -> Result<String, AuthError> {
        let token = random_token()?;
        self.keep(user, &token, now)?;
        Ok(token)
    }

    /// Whose token this is. Every kept hash is compared, each in the same time whatever it is.
    #[must_use]
    pub fn user_of(&self, token: &str) -> Option<UserId> {
        let asked = hash(token);
        let kept = self.lock();
        let found = kept.iter().fold(None, |found, k| if same(&k.sha256, &asked) { Some(k) } else { found });
        found.map(|k| k.user.clone())
    }

    /// Forgets all tokens of a user; how many there were. They open nothing from the moment when this returns.
    ///
    /// # Errors
    /// If the file cannot be written; then the tokens are as they were.
    pub fn revoke(&self, user: &UserId) -> Result<usize, AuthError> {
        let mut kept = self.lock();
        let left: Vec<Kept> = kept.iter().filter(|k| &k.user != user).cloned().collect();
        let revoked = kept.len() - left.len();
        if revoked > 0 {
            self.replace(&mut kept, left, None)?;
        }
        Ok(revoked)
    }

    fn keep(&self, user: UserId, token: &str, now: Timestamp) -> Result<(), AuthError> {
        let mut kept = self.lock();
        if kept.len() >= TOKENS_MAX {
            return Err(AuthError::TooMany);
        }
        let mut all = kept.clone();
        all.push(Kept { user, sha256: hash(token), created_at: now });
        self.replace(&mut kept, all, None)
    }

    fn replace(
        &self,
        kept: &mut Vec<Kept>,
        all: Vec<Kept>,
        pending: Option<String>,
    ) -> Result<(), AuthError> {
        let file = TokensFile { version: 1, tokens: all, pending };
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|source| AuthError::Unreadable { path: self.path.clone(), source })?;
        write_private(&self.path, &bytes)?;
        *kept = file.tokens;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        // The list is replaced as a whole, so that a panic elsewhere cannot have left it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All tokens, where the first administrator has this one alone; how many went.
fn renewed(kept: &[Kept], sha256: String, now: Timestamp) -> (Vec<Kept>, usize) {
    let user = UserId::new(BOOTSTRAP_ADMINISTRATOR).expect("a word is a valid user name");
    let mut all: Vec<Kept> = kept.iter().filter(|k| k.user != user).cloned().collect();
    let forgotten = kept.len() - all.len();
    all.push(Kept { user, sha256, created_at: now });
    (all, forgotten)
}

fn random_token() -> Result<String, AuthError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(AuthError::Random)?;
    Ok(format!("{TOKEN_PREFIX}{}", hex(&bytes)))
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Whether both are equal, in a time that depends on their length only.
fn same(a: &str, b: &str) -> bool {
    let different = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && different == 0
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthError {
    let path = path.to_owned();
    move |source| AuthError::File { what, path, source }
}

/// Replaces a file that only its owner may read; it is there as a whole, or as it was.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), AuthError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed("write", path))
}

/// What a user may do, from the organisation's definition as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// Who asks.
    pub user: &'a UserId,
    /// The definition; none before the first one was applied.
    pub organisation: Option<&'a OrganisationDef>,
}

impl Rights<'_> {
    fn is_bootstrap(&self) -> bool {
        self.user.as_str() == BOOTSTRAP_ADMINISTRATOR
    }

    /// Whether the user is anybody at all; who is may read everything.
    #[must_use]
    pub fn known(&self) -> bool {
        self.is_bootstrap() || self.organisation.is_some_and(|o| o.user(self.user).is_some())
    }

    /// Whether the user may apply definitions, raise the organisation's alarms and make tokens.
    #[must_use]
    pub fn administrator(&self) -> bool {
        let role = |o: &OrganisationDef| {
            o.user(self.user).is_some_and(|u| u.roles.contains(&OrgRole::Administrator))
        };
        self.is_bootstrap() || self.organisation.is_some_and(role)
    }

    /// Whether the user may steer the pipelines of this team: its members may.
    #[must_use]
    pub fn member(&self, team: &TeamId) -> bool {
        self.organisation.and_then(|o| o.team(team)).is_some_and(|t| t.members.contains(self.user))
    }

    /// Whether the user may say in which state the alarms from outside of this team are: its members and its reporters may.
    #[must_use]
    pub fn reporter(&self, team: &TeamId) -> bool {
        let reports = |t: &TeamDef| t.reporters.contains(self.user);
        self.member(team) || self.organisation.and_then(|o| o.team(team)).is_some_and(reports)
    }

    /// The teams of whose alarms from outside the user may speak.
    #[must_use]
    pub fn reports_for(&self) -> Vec<TeamId> {
        let all = self.organisation.map_or(&[][..], |o| o.teams.as_slice());
        all.iter().map(|t| &t.name).filter(|team| self.reporter(team)).cloned().collect()
    }

    /// The teams that the user is a member of.
    #[must_use]
    pub fn teams(&self) -> Vec<TeamId> {
        let all = self.organisation.map_or(&[][..], |o| o.teams.as_slice());
        all.iter().filter(|t| t.members.contains(self.user)).map(|t| t.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_start_makes_one_administrator_and_the_next_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let tokens = Tokens::open(&data, Timestamp(1)).unwrap();
        let first = std::fs::read_to_string(data.join(ADMIN_TOKEN_FILE)).unwrap();
        assert!(first.starts_with("tg_") && first.trim().len() == 3 + 64, "{first}");
        let alice = UserId::new("alice").unwrap();
        let second = tokens.create(alice.clone(), Timestamp(2)).unwrap();
        let again = Tokens::open(&data, Timestamp(3)).unwrap();
        assert_eq!(again.user_of(first.trim()).unwrap().as_str(), BOOTSTRAP_ADMINISTRATOR);
        assert_eq!(again.user_of(&second), Some(alice));
        assert_eq!(again.user_of("tg_"), None);
        assert_eq!(std::fs::read_to_string(data.join(ADMIN_TOKEN_FILE)).unwrap(), first);
        for name in [TOKENS_FILE, ADMIN_TOKEN_FILE] {
            let path = data.join(name);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let kept = std::fs::read_to_string(data.join(TOKENS_FILE)).unwrap();
        assert!(!kept.contains(&second[3..]) && kept.contains(&hash(&second)));
    }

    #[test]
    fn the_first_administrator_s_token_is_renewed_and_a_crash_in_between_locks_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(ADMIN_TOKEN_FILE);
        let read = || std::fs::read_to_string(&file).unwrap().trim().to_owned();
        let tokens = Tokens::open(dir.path(), Timestamp(1)).unwrap();
        let (old, alice) = (read(), tokens.create(UserId::new("alice").unwrap(), Timestamp(2)).unwrap());
        assert_eq!(tokens.renew_first(Timestamp(3)).unwrap(), 1);
        let new = read();
        assert_eq!((tokens.user_of(&old), tokens.user_of(&new).is_some()), (None, true));
        assert!(tokens.user_of(&alice).is_some(), "others keep theirs");
        // Cut off after the file was written, and before.
        let cut_off = random_token().unwrap();
        let pending = |token: &str| {
            let tokens = Tokens::open(dir.path(), Timestamp(4)).unwrap();
            let mut kept = tokens.lock();
            let same = kept.clone();
            tokens.replace(&mut kept, same, Some(hash(token))).unwrap();
        };
        pending(&cut_off);
        write_private(&file, cut_off.as_bytes()).unwrap();
        let again = Tokens::open(dir.path(), Timestamp(4)).unwrap();
        assert_eq!(again.user_of(&cut_off).unwrap().as_str(), BOOTSTRAP_ADMINISTRATOR);
        assert_eq!(again.user_of(&new), None);
        pending(&random_token().unwrap());
        let again = Tokens::open(dir.path(), Timestamp(5)).unwrap();
        assert!(again.user_of(&cut_off).is_some(), "what was not written does not count");
        // Whatever somebody writes there afterwards is no token, an old one neither.
        for text in ["", "see the vault", old.as_str(), new.as_str()] {
            std::fs::write(&file, text).unwrap();
            let again = Tokens::open(dir.path(), Timestamp(6)).unwrap();
            assert!(again.user_of(text).is_none() && again.user_of(&cut_off).is_some(), "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        let without = Tokens::open(dir.path(), Timestamp(5)).unwrap();
        assert!(without.user_of(&cut_off).is_some() && !file.exists(), "who moved it away keeps it");
    }

    #[test]
    fn a_file_of_tokens_that_is_none_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKENS_FILE);
        for text in ["", "{}", "{\"version\": 1, \"tokens\": [], \"more\": 1}"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Tokens::open(dir.path(), Timestamp(0)), Err(AuthError::Unreadable { .. })));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
