//! Whose a data directory is. Everything in it is one user's: another one sees nothing of what is there, and root would leave files
//! that the server can use no more.

use rustix::process::geteuid;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a server, or a fleet on a folder of its own, makes first; by it is known whose the directory is. The directory itself may be
/// root's where the server may write into it all the same (a volume of a group).
const TELLS: [&str; 4] = ["store", "fleet", "commands", "slots"];

/// A data directory belongs to somebody else than this process.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} belongs to {owner}, and this is {own}: run it as {owner}, such as 'sudo -u {owner} tidegate ...'",
    path = path.display()
)]
pub struct AnotherUser {
    path: PathBuf,
    owner: String,
    own: String,
}

/// Whether this process may look into a data directory, or ask whoever works there: as its user, or as root. One that nobody has
/// used, or that cannot be reached at all, is nobody's.
///
/// # Errors
/// It is another user's.
pub fn may_look(data: &Path) -> Result<(), AnotherUser> {
    if geteuid().is_root() { Ok(()) } else { may_write(data) }
}

/// Whether this process may write into it: as its user alone.
///
/// # Errors
/// It is another user's.
pub fn may_write(data: &Path) -> Result<(), AnotherUser> {
    let own = geteuid().as_raw();
    match owner(data) {
        Ok(Some(found)) if found != own => {
            Err(AnotherUser { path: data.to_owned(), owner: name(found), own: name(own) })
        }
        // What fails is told by whatever comes next.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn owner(data: &Path) -> io::Result<Option<u32>> {
    for part in TELLS {
        match fs::metadata(data.join(part)) {
            Ok(found) => return Ok(Some(found.uid())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Who may not enter it sees at least whose it is.
            Err(_) => return fs::metadata(data).map(|found| Some(found.uid())),
        }
    }
    Ok(None)
}

/// The user's name, or the number where there is none.
fn name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut named = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.next().unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_it_is_decides_and_the_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(may_look(dir.path()).is_ok() && may_write(dir.path()).is_ok());
        assert!(may_look(&dir.path().join("nothing")).is_ok());
        fs::create_dir(dir.path().join("store")).unwrap();
        assert!(may_write(dir.path()).is_ok());
        assert_eq!((name(0), name(4_000_000_000)), ("root".to_owned(), "#4000000000".to_owned()));
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path().join("store"), Some(65_534), None).unwrap();
            assert!(may_look(dir.path()).is_ok(), "root may look for others");
            fs::create_dir_all(dir.path().join("moved/fleet")).unwrap();
            std::os::unix::fs::chown(dir.path().join("moved/fleet"), Some(65_534), None).unwrap();
            assert!(may_write(&dir.path().join("moved")).is_err(), "the store was moved aside");
            let told = may_write(dir.path()).unwrap_err().to_string();
            assert!(told.contains(" belongs to nobody, and this is root: run it as nobody"), "{told}");
        }
    }
}
