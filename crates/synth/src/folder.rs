//! Reads a folder's sources, within limits. Nothing of them is looked into here.

use crate::limits::{DEPTH_MAX, ENTRIES_MAX, FILE_BYTES_MAX, FILES_MAX, SOURCE_BYTES_MAX};
use crate::problem::{Place, Problem};
use crate::synth::SynthError;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Every `.ts` file below the folder but declarations (`.d.ts`), what begins with a dot, and `node_modules`: its path with
/// '/', and its text.
pub(crate) fn read(folder: &Path) -> Result<BTreeMap<String, String>, SynthError> {
    let mut reading = Reading { files: BTreeMap::new(), entries: 0, bytes: 0 };
    reading.folder(folder, "", 0)?;
    if reading.files.is_empty() {
        let message = format!("there is no .ts file in {}", folder.display());
        return Err(Problem::new("TG300", message, "begin with 'tidegate init'").into());
    }
    Ok(reading.files)
}

struct Reading {
    files: BTreeMap<String, String>,
    entries: usize,
    bytes: u64,
}

impl Reading {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), SynthError> {
        let unread = |source| SynthError::Read { path: folder.to_owned(), source };
        if depth > DEPTH_MAX {
            return Err(limit(prefix, format!("folders are nested more than {DEPTH_MAX} deep")));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(limit(prefix, format!("the folder has more than {ENTRIES_MAX} entries")));
            }
            entries.push((entry.file_name(), entry.file_type().map_err(unread)?));
        }
        // An error is the same one on every machine.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in entries {
            let Some(text) = name.to_str() else { continue };
            if text.starts_with('.') || text == "node_modules" {
                continue;
            }
            let path = if prefix.is_empty() { text.to_owned() } else { format!("{prefix}/{text}") };
            let source = text.ends_with(".ts") && !text.ends_with(".d.ts");
            if kind.is_dir() {
                self.folder(&folder.join(&name), &path, depth + 1)?;
            } else if source && kind.is_file() {
                self.file(&folder.join(&name), path)?;
            } else if source || (kind.is_symlink() && folder.join(&name).is_dir()) {
                let hint = "put the file itself there: a link would lead out of what is reviewed";
                return Err(Problem::new("TG302", "it is no file but a link or a device", hint)
                    .at(Place::file(path))
                    .into());
            }
        }
        Ok(())
    }

    fn file(&mut self, at: &Path, path: String) -> Result<(), SynthError> {
        if self.files.len() >= FILES_MAX {
            return Err(limit(&path, format!("the folder has more than {FILES_MAX} .ts files")));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(at).map_err(|source| SynthError::Read { path: at.to_owned(), source })?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| SynthError::Read { path: at.to_owned(), source })?;
        self.bytes += bytes.len() as u64;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(limit(&path, "the file has more than 1 MiB".to_owned()));
        }
        if self.bytes > SOURCE_BYTES_MAX {
            return Err(limit(&path, "the files together have more than 16 MiB".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|b| *b == b'\n').count();
            let message = format!("line {line} is not UTF-8");
            SynthError::from(Problem::new("TG303", message, "save it as UTF-8").at(Place::file(&path)))
        })?;
        self.files.insert(path, text);
        Ok(())
    }
}

fn limit(path: &str, message: String) -> SynthError {
    Problem::new("TG301", message, "is this the folder of pipelines?").at(Place::file(path)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(folder: &Path) -> String {
        match read(folder) {
            Err(SynthError::Problems { problems, .. }) => problems[0].code.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_plain_sources_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.ts", "a.ts", "types.d.ts", "notes.md", ".hidden.ts"] {
            fs::write(dir.path().join(name), "export {};").unwrap();
        }
        for folder in ["team", "node_modules", ".git"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("c.ts"), "").unwrap();
        }
        assert_eq!(read(dir.path()).unwrap().keys().collect::<Vec<_>>(), ["a.ts", "b.ts", "team/c.ts"]);
    }

    #[test]
    fn what_is_no_plain_file_or_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(code(dir.path()), "TG300");
        let file = dir.path().join("a.ts");
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(code(dir.path()), "TG302");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        assert_eq!(code(dir.path()), "TG302");
        fs::remove_file(dir.path().join("etc")).unwrap();
        fs::write(&file, b"a\n\xff\n").unwrap();
        assert_eq!(code(dir.path()), "TG303");
        fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
        assert_eq!(code(dir.path()), "TG301");
        fs::remove_file(&file).unwrap();
        for n in 0..10_000 {
            fs::write(dir.path().join(format!("{n}.ts")), "").unwrap();
        }
        assert_eq!(code(dir.path()), "TG301");
        let deep = tempfile::tempdir().unwrap();
        fs::create_dir_all(deep.path().join("d/".repeat(20))).unwrap();
        assert_eq!(code(deep.path()), "TG301");
    }
}
