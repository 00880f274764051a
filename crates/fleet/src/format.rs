//! The form of a fleet's folder, which stands in the folder itself: a program that does not know it leaves the folder alone, and
//! misreads nothing.

use crate::disk::{DataDir, read_json};
use crate::error::FleetError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The form in which this version writes. It grows when an older one could misread what is there, or would lose it.
const FORMAT: u32 = 1;
/// Its file in the folder.
const FILE: &str = "format.json";

/// What the file says. A later version may say more.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    /// The version of tidegate that wrote in this form first.
    #[serde(default)]
    tidegate: Option<String>,
}

/// Refuses a fleet's folder that a newer version has written; one that does not say so is of the first form.
///
/// # Errors
/// It is newer, or cannot be read.
pub fn check_format(data: &Path) -> Result<(), FleetError> {
    read(data).map(|_| ())
}

fn read(data: &Path) -> Result<Option<u32>, FleetError> {
    match read_json::<Format>(&data.join(FILE))? {
        Some(Format { format, tidegate }) if format > FORMAT => {
            Err(FleetError::Newer { data: data.to_owned(), found: format, known: FORMAT, by: tidegate })
        }
        found => Ok(found.map(|found| found.format)),
    }
}

/// Says in the folder in which form it is from now on. To be called by whoever supervises, before anything is written.
pub(crate) fn keep(data: &DataDir) -> Result<(), FleetError> {
    if read(data.root())? == Some(FORMAT) {
        return Ok(());
    }
    let format = Format { format: FORMAT, tidegate: Some(env!("CARGO_PKG_VERSION").to_owned()) };
    match data.write_json(&data.path(FILE), &format) {
        // As long as there is one form it says nothing that its absence does not say.
        Err(error) if error.is_disk_full() && FORMAT == 1 => Ok(()),
        kept => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_newer_folder_is_refused_in_words_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), 0).unwrap();
        keep(&data).unwrap();
        keep(&data).unwrap();
        check_format(dir.path()).unwrap();
        let newer = r#"{"format":7,"tidegate":"9.1.0","more":true}"#;
        fs::write(dir.path().join(FILE), newer).unwrap();
        fs::remove_dir(dir.path().join("boxes")).unwrap();
        let why = DataDir::open(dir.path(), 0).unwrap_err().to_string();
        let expected = "was written by the fleet of tidegate 9.1.0 (form 7, this version knows 1)";
        assert!(why.ends_with(expected), "{why}");
        assert!(!dir.path().join("boxes").exists(), "nothing is made");
        assert!(keep(&data).is_err());
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), newer);
    }
}
