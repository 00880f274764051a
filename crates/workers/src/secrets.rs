//! Secrets: kept by name on the server, given to the few children that need them, and masked in everything they say.
//!
//! What must hold: a value is in no command line, log or error message, nor in a file that others can read. Whoever
//! starts a child with secrets sends its output through a [`Masker`] made of the same secrets.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_core::ids::SecretName;

/// The shortest secret, in bytes: masking shorter ones would blank out ordinary text.
pub const SECRET_BYTES_MIN: usize = 4;
/// The longest secret, in bytes: several private keys.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// What stands in place of a secret.
pub const MASK: &str = "[secret]";

/// Why a secret cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum SecretError {
    #[error("failed to use the secret store {path}", path = path.display())]
    Store { path: PathBuf, source: std::io::Error },
    #[error("secret '{name}' is not in the store")]
    Missing { name: SecretName },
    #[error("secret '{name}' is not usable: {why}")]
    Unusable { name: SecretName, why: &'static str },
    #[error("{path} has mode {mode:o}; only its owner may use it (chmod go-rwx)", path = path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// A secret's value. It prints as `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a value: [`SECRET_BYTES_MIN`] to [`SECRET_BYTES_MAX`] bytes, without NUL; one newline at its end is
    /// not part of it. The error says what is wrong with it.
    pub fn new(value: impl Into<String>) -> Result<Secret, &'static str> {
        let mut value = value.into();
        if value.ends_with('\n') && !value.trim_end().contains('\n') {
            value.truncate(value.trim_end_matches(['\r', '\n']).len());
        }
        if value.len() < SECRET_BYTES_MIN {
            return Err("it is shorter than 4 bytes, and could not be masked");
        }
        if value.len() > SECRET_BYTES_MAX {
            return Err("it is longer than 64 KiB");
        }
        if value.contains('\0') {
            return Err("it contains a NUL byte");
        }
        Ok(Secret(value))
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MASK)
    }
}

/// A folder (mode 0700) with a file (mode 0600) for each secret.
#[derive(Debug, Clone)]
pub struct SecretStore {
    dir: PathBuf,
}

impl SecretStore {
    /// Opens the folder, and makes it if it is not there. One that others can enter is refused.
    pub fn open(dir: &Path) -> Result<SecretStore, SecretError> {
        let store = SecretStore { dir: dir.to_owned() };
        if !dir.is_dir() {
            fs::create_dir_all(dir).map_err(|e| store.fail(e))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| store.fail(e))?;
        }
        check_private(dir, &fs::metadata(dir).map_err(|e| store.fail(e))?)?;
        Ok(store)
    }

    fn fail(&self, source: std::io::Error) -> SecretError {
        SecretError::Store { path: self.dir.clone(), source }
    }

    /// The value of a secret.
    pub fn get(&self, name: &SecretName) -> Result<Secret, SecretError> {
        let path = self.dir.join(name.as_str());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(SecretError::Missing { name: name.clone() });
            }
            Err(source) => return Err(SecretError::Store { path, source }),
        };
        check_private(&path, &file.metadata().map_err(|e| self.fail(e))?)?;
        let mut value = String::new();
        file.take(SECRET_BYTES_MAX as u64 + 2)
            .read_to_string(&mut value)
            .map_err(|source| SecretError::Store { path, source })?;
        Secret::new(value).map_err(|why| SecretError::Unusable { name: name.clone(), why })
    }

    /// Keeps a secret; an older value under the name is replaced in one step.
    pub fn set(&self, name: &SecretName, value: &Secret) -> Result<(), SecretError> {
        // A temporary file has mode 0600 from the start; names of secrets do not begin with a dot.
        let mut file =
            tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir).map_err(|e| self.fail(e))?;
        file.write_all(value.expose().as_bytes()).map_err(|e| self.fail(e))?;
        file.as_file().sync_all().map_err(|e| self.fail(e))?;
        file.persist(self.dir.join(name.as_str())).map_err(|e| self.fail(e.error))?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| self.fail(e))
    }

    /// Forgets a secret; one that is not there is no error.
    pub fn remove(&self, name: &SecretName) -> Result<(), SecretError> {
        match fs::remove_file(self.dir.join(name.as_str())) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.fail(e)),
            _ => Ok(()),
        }
    }

    /// The names that have a value, in order.
    pub fn names(&self) -> Result<Vec<SecretName>, SecretError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| self.fail(e))? {
            let name = entry.map_err(|e| self.fail(e))?.file_name();
            names.extend(name.to_str().and_then(|n| SecretName::new(n).ok()));
        }
        names.sort();
        Ok(names)
    }
}

fn check_private(path: &Path, metadata: &fs::Metadata) -> Result<(), SecretError> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(SecretError::Exposed { path: path.to_owned(), mode }) }
}

/// Replaces secrets by [`MASK`]. The lines of a secret of several lines are secrets as well.
#[derive(Clone, Default)]
pub struct Masker {
    /// Longest first, so that a secret which begins with another one is masked whole.
    patterns: Arc<[Vec<u8>]>,
}

impl Masker {
    /// A masker of these secrets.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Masker {
        let mut patterns: Vec<Vec<u8>> = secrets
            .into_iter()
            .flat_map(|s| std::iter::once(s.expose()).chain(s.expose().lines()))
            .map(str::trim)
            .filter(|line| line.len() >= SECRET_BYTES_MIN)
            .map(|line| line.as_bytes().to_vec())
            .collect();
        patterns.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        patterns.dedup();
        Masker { patterns: patterns.into() }
    }

    /// A whole text, masked.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        let mut stream = self.stream();
        let mut out = Vec::with_capacity(text.len());
        stream.feed(text.as_bytes(), &mut out);
        stream.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// For a text that comes in pieces.
    #[must_use]
    pub fn stream(&self) -> MaskStream {
        MaskStream { masker: self.clone(), held: Vec::new() }
    }

    /// What begins `text`: a whole secret's length, or whether it may become one with more text.
    fn look(&self, text: &[u8]) -> Look {
        for pattern in self.patterns.iter() {
            if text.starts_with(pattern) {
                return Look::Secret(pattern.len());
            }
            if pattern.starts_with(text) {
                return Look::Unsure;
            }
        }
        Look::Plain
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masker({} secrets)", self.patterns.len())
    }
}

enum Look {
    Secret(usize),
    Unsure,
    Plain,
}

/// Masks a text that comes in pieces, also where a secret lies across their borders. It holds back at most the
/// length of the longest secret.
#[derive(Debug)]
pub struct MaskStream {
    masker: Masker,
    held: Vec<u8>,
}

impl MaskStream {
    /// Takes a piece, and appends to `out` what is sure.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.masker.patterns.is_empty() {
            out.extend_from_slice(piece);
            return;
        }
        self.held.extend_from_slice(piece);
        self.flush(out, false);
    }

    /// Appends the rest: no more comes.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.flush(out, true);
    }

    fn flush(&mut self, out: &mut Vec<u8>, last: bool) {
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Some((first, tail)) = rest.split_first() {
            rest = match self.masker.look(rest) {
                Look::Secret(length) => {
                    out.extend_from_slice(MASK.as_bytes());
                    &rest[length..]
                }
                Look::Unsure if !last => break,
                // At the end a shorter secret may still stand in what could have become a longer one.
                Look::Unsure | Look::Plain => match self.masker.patterns.iter().find(|p| rest.starts_with(p))
                {
                    Some(shorter) => {
                        out.extend_from_slice(MASK.as_bytes());
                        &rest[shorter.len()..]
                    }
                    None => {
                        out.push(*first);
                        tail
                    }
                },
            };
        }
        self.held = rest.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(value: &str) -> Secret {
        Secret::new(value).unwrap()
    }

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    #[test]
    fn values_are_kept_privately_under_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("secrets");
        let store = SecretStore::open(&root).unwrap();
        store.set(&name("token"), &secret("first")).unwrap();
        store.set(&name("token"), &secret("second\n")).unwrap();
        store.set(&name("another"), &secret("-----BEGIN KEY-----\nabcdef\n-----END KEY-----\n")).unwrap();
        assert_eq!(store.get(&name("token")).unwrap().expose(), "second");
        assert!(store.get(&name("another")).unwrap().expose().ends_with("-----\n"));
        assert_eq!(store.names().unwrap(), [name("another"), name("token")]);
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&root), mode(&root.join("token"))), (0o700, 0o600));
        assert_eq!(format!("{:?}", store.get(&name("token")).unwrap()), MASK);

        fs::set_permissions(root.join("token"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(store.get(&name("token")), Err(SecretError::Exposed { mode: 0o640, .. })));
        store.remove(&name("token")).unwrap();
        store.remove(&name("token")).unwrap();
        assert!(matches!(store.get(&name("token")), Err(SecretError::Missing { .. })));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(SecretStore::open(&root), Err(SecretError::Exposed { mode: 0o755, .. })));
        assert!(Secret::new("abc").is_err() && Secret::new("ab\0cd").is_err());
    }

    #[test]
    fn lines_and_overlaps_are_masked() {
        let secrets = [secret("hunter2"), secret("hunter2-long"), secret("line one\nline two\n\n")];
        let masker = Masker::new(&secrets);
        let masked = masker.mask("a hunter2, hunter2-long hunter2-lo, [line two] line three hunter");
        assert_eq!(masked, "a [secret], [secret] [secret]-lo, [[secret]] line three hunter");
        assert_eq!(masker.mask("ends with hunter2-lo"), "ends with [secret]-lo");
        assert_eq!(Masker::default().mask("anything"), "anything");
    }

    proptest! {
        #[test]
        fn pieces_are_masked_like_the_whole(
            text in "[ab]{0,60}", one in "[ab]{4,8}", two in "[ab]{4,8}",
            cuts in prop::collection::vec(0_usize..=60, 0..8),
        ) {
            let secrets = [secret(&one), secret(&two)];
            let masker = Masker::new(&secrets);
            let whole = masker.mask(&text);
            prop_assert!(!whole.contains(&one) && !whole.contains(&two));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut stream, mut out) = (masker.stream(), Vec::new());
            for piece in cuts.windows(2) {
                stream.feed(&text.as_bytes()[piece[0]..piece[1]], &mut out);
            }
            stream.finish(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole);
        }
    }
}
