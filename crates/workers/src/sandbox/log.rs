//! Where output goes: a file that can be read while it grows, and its end in memory for messages.

use crate::secrets::{MaskStream, Masker};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much of the end is kept for messages, in bytes.
const TAIL_BYTES_MAX: usize = 32 * 1024;

/// The log of a build. Clones are the same log. Secrets are masked in all that is written to it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
    masker: Masker,
}

struct Inner {
    file: Option<File>,
    stream: MaskStream,
    tail: Vec<u8>,
    failed: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// A log in a new or emptied file (mode 0600). Its size is limited by what the runs may print.
    pub fn create(path: &Path, masker: Masker) -> std::io::Result<Log> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Log::with(Some(file), masker))
    }

    /// A log of which only the end is kept.
    #[must_use]
    pub fn in_memory() -> Log {
        Log::with(None, Masker::default())
    }

    fn with(file: Option<File>, masker: Masker) -> Log {
        let inner = Inner { file, stream: masker.stream(), tail: Vec::new(), failed: false };
        Log { inner: Arc::new(Mutex::new(inner)), masker }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds output as it comes. A disk that is full loses lines and does not end the build.
    pub fn write(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let mut masked = Vec::with_capacity(bytes.len());
        inner.stream.feed(bytes, &mut masked);
        inner.append(&masked);
    }

    /// Adds a line of our own, after what may still be held back.
    pub fn line(&self, text: &str) {
        self.end_of_run();
        self.write(format!("{text}\n").as_bytes());
        self.end_of_run();
    }

    /// Writes what was held back for masking: the writer has ended.
    pub(super) fn end_of_run(&self) {
        let mut inner = self.lock();
        let mut masked = Vec::new();
        inner.stream.finish(&mut masked);
        inner.append(&masked);
        if inner.tail.last().is_some_and(|b| *b != b'\n') {
            inner.append(b"\n");
        }
    }

    /// Its last lines, at most so many, masked.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let inner = self.lock();
        let text = String::from_utf8_lossy(&inner.tail);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A text with the log's secrets masked.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        self.masker.mask(text)
    }
}

impl Inner {
    fn append(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(%error, "failed to write a build's log; it has gaps from here on");
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL_BYTES_MAX {
            self.tail.drain(..self.tail.len() - TAIL_BYTES_MAX);
        }
    }
}
