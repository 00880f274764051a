//! How much of the disk the data directory uses, part by part.

use super::children;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tidegate_api::GcUse;

/// The parts that are told by name. What else is there (keys, secrets, tokens) is small.
const PARTS: [&str; 9] =
    ["store", "packages", "logs", "mirrors", "cache", "builds", "tests", "fleet", "commands"];
const OTHER: &str = "other";
const SCRATCH: [&str; 2] = ["builds", "tests"];

/// What the parts of a data directory use, in bytes as the disk counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage(BTreeMap<&'static str, u64>);

impl Usage {
    /// Looks at every file. One of several names counts once, and what cannot be looked at is nothing. Blocks on the disk.
    #[must_use]
    pub fn measure(data: &Path) -> Usage {
        let mut usage = Usage(PARTS.iter().map(|name| (*name, 0)).collect());
        let mut seen = HashSet::new();
        for (path, _) in children(data).unwrap_or_default() {
            let part = PARTS.iter().find(|name| path.ends_with(name)).copied().unwrap_or(OTHER);
            *usage.0.entry(part).or_default() += bytes(&path, &mut seen);
        }
        usage
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What stays: without the scratch of what runs, which goes with it.
    #[must_use]
    pub fn lasting(&self) -> u64 {
        self.parts().filter(|(name, _)| !SCRATCH.contains(name)).map(|(_, bytes)| bytes).sum()
    }

    /// Part by part.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, bytes)| (*name, *bytes))
    }

    /// For people who ask.
    pub(super) fn told(&self) -> Vec<GcUse> {
        self.parts().map(|(name, bytes)| GcUse { name: name.to_owned(), bytes }).collect()
    }
}

/// The bytes of a file, or of everything beneath a folder.
pub(super) fn size(path: &Path) -> u64 {
    bytes(path, &mut HashSet::new())
}

fn bytes(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if metadata.is_dir() {
        let below = children(path).unwrap_or_default();
        return metadata.blocks() * 512 + below.iter().map(|(path, _)| bytes(path, seen)).sum::<u64>();
    }
    let again = metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino()));
    if again { 0 } else { metadata.blocks() * 512 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_once_and_in_its_part() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Usage::measure(dir.path());
        assert_eq!(empty.total(), 0);
        fs::create_dir_all(dir.path().join("packages/deep")).unwrap();
        fs::write(dir.path().join("packages/deep/one"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.path().join("packages/deep/one"), dir.path().join("packages/two")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("packages/elsewhere")).unwrap();
        fs::write(dir.path().join("admin-token"), "secret").unwrap();
        let usage = Usage::measure(dir.path());
        let of = |name: &str| usage.parts().find(|(part, _)| *part == name).unwrap().1;
        assert!(of("packages") >= 1 << 20 && of("packages") < 2 << 20, "{usage:?}");
        assert!(of("other") > 0 && of("store") == 0, "{usage:?}");
        assert_eq!(usage.total(), of("packages") + of("other"));
        fs::create_dir(dir.path().join("builds")).unwrap();
        fs::write(dir.path().join("builds/object"), vec![1; 4096]).unwrap();
        let building = Usage::measure(dir.path());
        assert!(building.total() > usage.total() && building.lasting() == usage.lasting(), "{building:?}");
        assert_eq!(Usage::measure(&dir.path().join("nothing")).total(), 0);
    }
}
