//! Packages: immutable bytes that are named by their SHA-256 and signed together with their provenance (B4).
//!
//! A package is two files: `<sha256>.tar` and `<sha256>.dsse.json`, a DSSE envelope around an in-toto Statement.
//! What must hold: nothing is unpacked in its final place before exactly the bytes that were unpacked had the right
//! digest and a trusted key had signed that digest. A package is complete or absent, whatever crashes. All calls
//! block on the disk; call them from a blocking thread.

mod archive;
mod provenance;
mod signing;
#[cfg(test)]
mod tests;

pub use archive::{PackItem, pack};
pub use provenance::{
    BUILD_TYPE, BuildDefinition, BuildMetadata, Builder, ExternalParameters, IMPORT_TYPE, PREDICATE_TYPE,
    Provenance, ResourceDescriptor, RunDetails, STATEMENT_TYPE, Statement, StepRecord,
};
pub use signing::{EnvelopeError, PAYLOAD_TYPE, SigningKey, TrustedKeys};

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;
use tidegate_core::ids::PackageDigest;

/// The largest package, in bytes: 4 GiB.
pub const PACKAGE_BYTES_MAX: u64 = 4 << 30;
/// The most files, folders and links in a package.
pub const ENTRIES_MAX: usize = 200_000;
/// The largest envelope, in bytes: room for provenance with thousands of commands.
const ENVELOPE_BYTES_MAX: u64 = 8 << 20;
const COPY_BUFFER_BYTES: usize = 64 * 1024;
const DSSE_SUFFIX: &str = ".dsse.json";

/// Why a package cannot be made, stored, believed or unpacked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PackageError {
    #[error("failed to use the key file {path}", path = path.display())]
    KeyFile { path: PathBuf, source: std::io::Error },
    #[error("the private key {path} has mode {mode:o}; only its owner may read it (chmod 600)", path = path.display())]
    KeyReadableByOthers { path: PathBuf, mode: u32 },
    #[error("the key file {path} is not usable: {why}", path = path.display())]
    KeyUnusable { path: PathBuf, why: String },
    #[error("failed to use the package store {path}", path = path.display())]
    Store { path: PathBuf, source: std::io::Error },
    #[error("failed to pack '{path}'", path = path.display())]
    Pack { path: PathBuf, source: std::io::Error },
    #[error("failed to unpack '{path}'", path = path.display())]
    Unpack { path: PathBuf, source: std::io::Error },
    #[error("'{path}' is refused in a package: {why}", path = path.display())]
    Unsafe { path: PathBuf, why: &'static str },
    #[error("'{path}' stands twice in the package", path = path.display())]
    Duplicate { path: PathBuf },
    #[error("the package has more than {limit} {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("package {digest} is not in the store {path}", path = path.display())]
    Missing { digest: PackageDigest, path: PathBuf },
    #[error("package {digest} has other bytes than its name says: their SHA-256 is {actual}")]
    DigestMismatch { digest: PackageDigest, actual: PackageDigest },
    #[error("the signature of package {digest} is not valid: {source}")]
    Envelope { digest: PackageDigest, source: EnvelopeError },
    #[error("the signed statement beside package {digest} speaks of another package: {found}")]
    SubjectMismatch { digest: PackageDigest, found: String },
}

impl PackageError {
    fn key_file(path: &Path, source: std::io::Error) -> PackageError {
        PackageError::KeyFile { path: path.to_owned(), source }
    }

    /// Whether the stored bytes or their signature are not what they must be: damage or tampering, as against a
    /// disk that fails or a package that is not there.
    #[must_use]
    pub fn is_tampering(&self) -> bool {
        matches!(
            self,
            PackageError::DigestMismatch { .. }
                | PackageError::Envelope { .. }
                | PackageError::SubjectMismatch { .. }
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Hashes what is read through it.
struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// Reads to the end; returns the digest and number of all bytes.
    fn finish(mut self) -> std::io::Result<(PackageDigest, u64)> {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        while self.read(&mut buffer)? > 0 {}
        let digest = PackageDigest::new(hex(&self.hasher.finalize())).map_err(std::io::Error::other)?;
        Ok((digest, self.bytes))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// A folder of packages. Several processes may use one at the same time.
#[derive(Debug, Clone)]
pub struct PackageStore {
    dir: PathBuf,
}

impl PackageStore {
    /// Opens the folder, and makes it (mode 0700) if it is not there.
    pub fn open(dir: &Path) -> Result<PackageStore, PackageError> {
        let fail = |source| PackageError::Store { path: dir.to_owned(), source };
        if !dir.is_dir() {
            fs::create_dir_all(dir).map_err(fail)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        Ok(PackageStore { dir: dir.to_owned() })
    }

    fn tar_path(&self, digest: &PackageDigest) -> PathBuf {
        self.dir.join(format!("{digest}.tar"))
    }

    fn envelope_path(&self, digest: &PackageDigest) -> PathBuf {
        self.dir.join(format!("{digest}{DSSE_SUFFIX}"))
    }

    fn fail(&self, source: std::io::Error) -> PackageError {
        PackageError::Store { path: self.dir.clone(), source }
    }

    /// Copies the tar into the store and signs it with its provenance; `name` is what people call it. A package that
    /// is already there whole is left as it is, its first provenance included; a damaged one is replaced.
    pub fn put(
        &self,
        mut tar: impl Read,
        name: &str,
        provenance: Provenance,
        key: &SigningKey,
    ) -> Result<PackageDigest, PackageError> {
        let mut copy = self.temp_file()?;
        let mut reader = HashingReader::new((&mut tar).take(PACKAGE_BYTES_MAX + 1));
        std::io::copy(&mut reader, &mut copy).map_err(|e| self.fail(e))?;
        let (digest, size) = reader.finish().map_err(|e| self.fail(e))?;
        if size > PACKAGE_BYTES_MAX {
            return Err(PackageError::TooLarge { what: "bytes", limit: PACKAGE_BYTES_MAX });
        }
        if self.is_whole(&digest) {
            // It is new to whoever is about to name it: its age tells the collector so.
            let envelope = File::options().write(true).open(self.envelope_path(&digest));
            envelope.and_then(|file| file.set_modified(SystemTime::now())).map_err(|e| self.fail(e))?;
            return Ok(digest);
        }
        let statement = Statement::new(name, &digest, provenance);
        let payload = serde_json::to_vec(&statement).map_err(|e| self.fail(e.into()))?;
        let mut envelope = self.temp_file()?;
        let sealed = serde_json::to_vec(&key.seal(&payload)).map_err(|e| self.fail(e.into()))?;
        envelope.write_all(&sealed).map_err(|e| self.fail(e))?;
        // The tar comes first: with its envelope the package is there.
        self.persist(copy, &self.tar_path(&digest))?;
        self.persist(envelope, &self.envelope_path(&digest))?;
        Ok(digest)
    }

    fn temp_file(&self) -> Result<tempfile::NamedTempFile, PackageError> {
        tempfile::Builder::new().prefix(".incoming-").tempfile_in(&self.dir).map_err(|e| self.fail(e))
    }

    fn persist(&self, mut file: tempfile::NamedTempFile, path: &Path) -> Result<(), PackageError> {
        file.flush().and_then(|()| file.as_file().sync_all()).map_err(|e| self.fail(e))?;
        file.persist(path).map_err(|e| self.fail(e.error))?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| self.fail(e))
    }

    fn is_whole(&self, digest: &PackageDigest) -> bool {
        self.envelope_path(digest).is_file()
            && File::open(self.tar_path(digest))
                .and_then(|f| HashingReader::new(f).finish())
                .is_ok_and(|(actual, _)| actual == *digest)
    }

    /// Checks the bytes and the signature. The result holds the open file, so that a file put in its place later is
    /// of no interest; bytes that change under it afterwards are found by [`VerifiedPackage::unpack`].
    pub fn verify(
        &self,
        digest: &PackageDigest,
        trusted: &TrustedKeys,
    ) -> Result<VerifiedPackage, PackageError> {
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(PackageError::Missing { digest: digest.clone(), path: self.dir.clone() })
            }
            Err(source) => Err(PackageError::Store { path, source }),
        };
        let mut tar = open(self.tar_path(digest))?;
        let envelope = open(self.envelope_path(digest))?;
        let statement = read_statement(envelope, digest, trusted)?;
        let (actual, size) = HashingReader::new(&mut tar).finish().map_err(|e| self.fail(e))?;
        if actual != *digest {
            return Err(PackageError::DigestMismatch { digest: digest.clone(), actual });
        }
        Ok(VerifiedPackage { digest: digest.clone(), tar: Mutex::new(tar), size, statement })
    }

    /// The packages that are there whole, in order of their digests. Their content is not checked.
    pub fn list(&self) -> Result<Vec<PackageDigest>, PackageError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| self.fail(e))? {
            let name = entry.map_err(|e| self.fail(e))?.file_name();
            let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(DSSE_SUFFIX)) else { continue };
            if let Ok(digest) = PackageDigest::new(stem)
                && self.tar_path(&digest).is_file()
            {
                found.push(digest);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes a package; one that is not there is no error. The caller knows that no rollback needs it.
    pub fn remove(&self, digest: &PackageDigest) -> Result<(), PackageError> {
        for path in [self.envelope_path(digest), self.tar_path(digest)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(PackageError::Store { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_statement(
    envelope: impl Read,
    digest: &PackageDigest,
    trusted: &TrustedKeys,
) -> Result<Statement, PackageError> {
    let fail = |source| PackageError::Envelope { digest: digest.clone(), source };
    let malformed = |e: serde_json::Error| fail(EnvelopeError::Malformed(e.to_string()));
    let envelope: signing::Envelope =
        serde_json::from_reader(envelope.take(ENVELOPE_BYTES_MAX)).map_err(malformed)?;
    let payload = envelope.open(trusted).map_err(fail)?;
    let statement: Statement = serde_json::from_slice(&payload).map_err(malformed)?;
    if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
        return Err(fail(EnvelopeError::Malformed(format!(
            "it holds a {} with a {}",
            statement.statement_type, statement.predicate_type
        ))));
    }
    match &statement.subject[..] {
        [subject] if subject.digest.get("sha256").is_some_and(|d| d == digest.as_str()) => Ok(statement),
        subjects => {
            let found: Vec<&str> =
                subjects.iter().filter_map(|s| s.digest.get("sha256").map(String::as_str)).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(PackageError::SubjectMismatch { digest: digest.clone(), found })
        }
    }
}

/// A package whose bytes and signature were checked.
#[derive(Debug)]
pub struct VerifiedPackage {
    digest: PackageDigest,
    tar: Mutex<File>,
    size: u64,
    statement: Statement,
}

impl VerifiedPackage {
    /// Its name.
    #[must_use]
    pub fn digest(&self) -> &PackageDigest {
        &self.digest
    }

    /// What was signed about its making.
    #[must_use]
    pub fn provenance(&self) -> &Statement {
        &self.statement
    }

    /// The size of the tar in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Unpacks it as the new folder `to`, whose parent exists. The digest is computed again over the bytes as they
    /// are unpacked, beside `to`; only if it is right the folder gets its name. So `to` is right or absent.
    pub fn unpack(&self, to: &Path) -> Result<(), PackageError> {
        let fail = |source| PackageError::Unpack { path: to.to_owned(), source };
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if to.symlink_metadata().is_ok() {
            return Err(fail(std::io::Error::from(std::io::ErrorKind::AlreadyExists)));
        }
        let room = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent).map_err(fail)?;
        let mut tar = self.tar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tar.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut reader = HashingReader::new(&mut *tar);
        let unpacked = archive::unpack(&mut reader, room.path());
        let (actual, _) = reader.finish().map_err(fail)?;
        if actual != self.digest {
            return Err(PackageError::DigestMismatch { digest: self.digest.clone(), actual });
        }
        unpacked?;
        fs::set_permissions(room.path(), fs::Permissions::from_mode(0o755)).map_err(fail)?;
        // From here on the folder is no longer removed by itself.
        let room = room.keep();
        fs::rename(&room, to).map_err(|source| {
            let _ = fs::remove_dir_all(&room);
            fail(source)
        })
    }
}
