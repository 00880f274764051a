//! Keys and envelopes: ed25519 signatures in the DSSE form.
//!
//! What must hold: the private key is never readable by others, and a signature is checked over exactly the bytes
//! that are parsed afterwards. Keys are PKCS#8 and SPKI in PEM, so `openssl pkey` reads them.

use super::PackageError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The type of the payload in a package's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The largest key file that is read, in bytes: some hundred public keys.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// The key that a server signs its packages with.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    key_id: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.key_id)
    }
}

impl SigningKey {
    /// Reads the private key from `private` (mode 0600) and makes it first if there is none; sees to it that
    /// `public` holds its public half. Two that start at once agree on one key. An existing `public` that lacks the
    /// key gets it appended, so keys of earlier times stay trusted.
    pub fn load_or_create(private: &Path, public: &Path) -> Result<SigningKey, PackageError> {
        if !private.exists() {
            create_private_key(private)?;
        }
        let mode =
            fs::metadata(private).map_err(|e| PackageError::key_file(private, e))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(PackageError::KeyReadableByOthers { path: private.to_owned(), mode: mode & 0o777 });
        }
        let pem = read_limited(private)?;
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(&pem)
            .map_err(|e| PackageError::KeyUnusable { path: private.to_owned(), why: e.to_string() })?;
        let key_id = key_id(&key.verifying_key(), private)?;
        let trusted = if public.exists() { TrustedKeys::load(public)? } else { TrustedKeys::default() };
        if !trusted.keys.contains_key(&key_id) {
            let mut text = if public.exists() { read_limited(public)? } else { String::new() };
            text += &key
                .verifying_key()
                .to_public_key_pem(LineEnding::LF)
                .map_err(|e| PackageError::KeyUnusable { path: private.to_owned(), why: e.to_string() })?;
            replace_file(public, text.as_bytes(), 0o644)?;
        }
        Ok(SigningKey { key, key_id })
    }

    /// The SHA-256 of the public key's SPKI form, in hexadecimal.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Only this key: for those that make and check in one place.
    #[must_use]
    pub fn trusted(&self) -> TrustedKeys {
        TrustedKeys { keys: BTreeMap::from([(self.key_id.clone(), self.key.verifying_key())]) }
    }

    /// Puts `payload` into a signed envelope.
    pub(super) fn seal(&self, payload: &[u8]) -> Envelope {
        let signature = self.key.sign(&pre_auth_encoding(PAYLOAD_TYPE, payload));
        Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![EnvelopeSignature {
                key_id: self.key_id.clone(),
                signature: BASE64.encode(signature.to_bytes()),
            }],
        }
    }
}

fn create_private_key(path: &Path) -> Result<(), PackageError> {
    let mut seed = [0_u8; 32];
    getrandom::fill(&mut seed).map_err(|e| PackageError::key_file(path, std::io::Error::other(e)))?;
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|e| PackageError::KeyUnusable { path: path.to_owned(), why: e.to_string() })?;
    let file = new_file_beside(path, pem.as_bytes(), 0o600)?;
    match file.persist_noclobber(path) {
        Ok(_) => sync_parent(path),
        // Another process was first; its key is the one.
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(PackageError::key_file(path, e.error)),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_parent(path: &Path) -> Result<(), PackageError> {
    File::open(parent(path)).and_then(|d| d.sync_all()).map_err(|e| PackageError::key_file(path, e))
}

fn new_file_beside(path: &Path, bytes: &[u8], mode: u32) -> Result<tempfile::NamedTempFile, PackageError> {
    let fail = |e| PackageError::key_file(path, e);
    let mut file = tempfile::NamedTempFile::new_in(parent(path)).map_err(fail)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    Ok(file)
}

fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PackageError> {
    let file = new_file_beside(path, bytes, mode)?;
    file.persist(path).map_err(|e| PackageError::key_file(path, e.error))?;
    sync_parent(path)
}

fn read_limited(path: &Path) -> Result<String, PackageError> {
    use std::io::Read;
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|e| PackageError::key_file(path, e))?;
    Ok(text)
}

fn key_id(key: &VerifyingKey, path: &Path) -> Result<String, PackageError> {
    let der = key
        .to_public_key_der()
        .map_err(|e| PackageError::KeyUnusable { path: path.to_owned(), why: e.to_string() })?;
    Ok(super::hex(&Sha256::digest(der.as_bytes())))
}

/// The public keys whose signatures count. Several, so that keys can be changed while old packages stay usable.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    keys: BTreeMap<String, VerifyingKey>,
}

impl TrustedKeys {
    /// Reads one or more public keys in PEM, one after another.
    pub fn load(path: &Path) -> Result<TrustedKeys, PackageError> {
        let text = read_limited(path)?;
        let mut keys = BTreeMap::new();
        for block in text.split_inclusive(PEM_END).filter(|block| !block.trim().is_empty()) {
            let key = VerifyingKey::from_public_key_pem(&format!("{}\n", block.trim()))
                .map_err(|e| PackageError::KeyUnusable { path: path.to_owned(), why: e.to_string() })?;
            keys.insert(key_id(&key, path)?, key);
        }
        Ok(TrustedKeys { keys })
    }

    /// The ids of the keys.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

/// A DSSE envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct EnvelopeSignature {
    #[serde(rename = "keyid")]
    key_id: String,
    #[serde(rename = "sig")]
    signature: String,
}

/// Why an envelope is not believed.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It cannot be read at all.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// No signature is by a key that is trusted here.
    #[error("it is signed by {signed_by}, and only {trusted} would be trusted here")]
    UnknownKey {
        /// The ids of the keys that signed it, as it says.
        signed_by: String,
        /// The ids of the keys that are trusted.
        trusted: String,
    },
    /// The signature does not belong to these bytes.
    #[error("its signature by key {key_id} does not fit its content")]
    BadSignature {
        /// The key that is said to have signed.
        key_id: String,
    },
}

impl Envelope {
    /// The payload, if a trusted key signed it.
    pub(super) fn open(&self, trusted: &TrustedKeys) -> Result<Vec<u8>, EnvelopeError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::Malformed(format!("its payload type is not {PAYLOAD_TYPE}")));
        }
        let malformed = |e: base64::DecodeError| EnvelopeError::Malformed(e.to_string());
        let payload = BASE64.decode(&self.payload).map_err(malformed)?;
        let signed = pre_auth_encoding(&self.payload_type, &payload);
        let mut bad = None;
        for entry in &self.signatures {
            let Some(key) = trusted.keys.get(&entry.key_id) else { continue };
            let bytes = BASE64.decode(&entry.signature).map_err(malformed)?;
            match Signature::from_slice(&bytes).and_then(|s| key.verify_strict(&signed, &s)) {
                Ok(()) => return Ok(payload),
                Err(_) => bad = Some(entry.key_id.clone()),
            }
        }
        if let Some(key_id) = bad {
            return Err(EnvelopeError::BadSignature { key_id });
        }
        let list = |ids: Vec<&str>| if ids.is_empty() { "no key".to_owned() } else { ids.join(", ") };
        Err(EnvelopeError::UnknownKey {
            signed_by: list(self.signatures.iter().map(|s| s.key_id.as_str()).collect()),
            trusted: list(trusted.key_ids().collect()),
        })
    }
}

/// DSSE's pre-authentication encoding: what is signed in place of the payload, so that its type is signed too.
fn pre_auth_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let encoded = pre_auth_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }
}
