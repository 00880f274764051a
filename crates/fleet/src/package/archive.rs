//! Packing and unpacking: tar files that depend on nothing but their content, and that reach nothing outside.
//!
//! What must hold: the same files give the same bytes, whoever packs them, when and where. Unpacking creates plain
//! files, folders and symbolic links below one folder, whatever the archive says. Nothing of owners, times or other
//! mode bits than "executable" is kept.

use super::{ENTRIES_MAX, PACKAGE_BYTES_MAX, PackageError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// A file or folder that goes into a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackItem {
    /// Where it is.
    pub from: PathBuf,
    /// Its path in the package: relative, without `..`. An empty path puts a folder's content at the root.
    pub to: PathBuf,
}

enum Source {
    Folder,
    File { path: PathBuf, executable: bool, size: u64 },
    Link(PathBuf),
}

/// Writes a tar of `items` to `out`: entries sorted by path, times and owners zero, modes 0755 or 0644. Blocks.
///
/// # Errors
/// If an item is missing, is neither file, folder nor link, points outside the package, lands on a path that
/// another one already has, or if the whole exceeds [`ENTRIES_MAX`] or [`PACKAGE_BYTES_MAX`].
pub fn pack(items: &[PackItem], out: impl Write) -> Result<(), PackageError> {
    let mut entries = BTreeMap::new();
    for item in items {
        let to = inside(&item.to)?;
        let at_root = to.as_os_str().is_empty();
        collect(&mut entries, &item.from, to, at_root)?;
    }
    let total: u64 =
        entries.values().map(|s| if let Source::File { size, .. } = s { *size } else { 0 }).sum();
    if total > PACKAGE_BYTES_MAX {
        return Err(PackageError::TooLarge { what: "bytes", limit: PACKAGE_BYTES_MAX });
    }
    let mut tar = tar::Builder::new(out);
    for (path, source) in &entries {
        append(&mut tar, path, source).map_err(|source| PackageError::Pack { path: path.clone(), source })?;
    }
    tar.finish().map_err(|source| PackageError::Pack { path: PathBuf::new(), source })
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, source: &Source) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match source {
        Source::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, std::io::empty())
        }
        Source::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)
        }
        Source::File { path: from, executable, size } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            // A file that grows or shrinks while it is packed must not shift what follows it.
            let file = open_no_follow(from)?;
            let mut content = file.take(*size);
            tar.append_data(&mut header, path, &mut content)?;
            if content.limit() > 0 {
                return Err(std::io::Error::other("it became shorter while it was packed"));
            }
            Ok(())
        }
    }
}

fn open_no_follow(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn collect(
    entries: &mut BTreeMap<PathBuf, Source>,
    from: &Path,
    to: PathBuf,
    at_root: bool,
) -> Result<(), PackageError> {
    let fail = |source| PackageError::Pack { path: from.to_owned(), source };
    let metadata = fs::symlink_metadata(from).map_err(fail)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        let mut children = fs::read_dir(from).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        children.sort_by_key(fs::DirEntry::file_name);
        if !at_root {
            add_parents(entries, &to)?;
            match entries.get(&to) {
                None | Some(Source::Folder) => entries.insert(to.clone(), Source::Folder),
                Some(_) => return Err(PackageError::Duplicate { path: to }),
            };
        }
        for child in children {
            collect(entries, &child.path(), to.join(child.file_name()), false)?;
        }
        return Ok(());
    }
    if at_root {
        return Err(PackageError::Unsafe { path: from.to_owned(), why: "only a folder can be the root" });
    }
    let source = if kind.is_file() {
        let executable = metadata.permissions().mode() & 0o111 != 0;
        Source::File { path: from.to_owned(), executable, size: metadata.len() }
    } else if kind.is_symlink() {
        let target = fs::read_link(from).map_err(fail)?;
        check_link(&to, &target)?;
        Source::Link(target)
    } else {
        return Err(PackageError::Unsafe {
            path: from.to_owned(),
            why: "it is neither a file, a folder nor a link",
        });
    };
    add_parents(entries, &to)?;
    if entries.len() >= ENTRIES_MAX {
        return Err(PackageError::TooLarge { what: "entries", limit: ENTRIES_MAX as u64 });
    }
    match entries.insert(to.clone(), source) {
        None => Ok(()),
        Some(_) => Err(PackageError::Duplicate { path: to }),
    }
}

fn add_parents(entries: &mut BTreeMap<PathBuf, Source>, path: &Path) -> Result<(), PackageError> {
    for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
        match entries.entry(parent.to_owned()).or_insert(Source::Folder) {
            Source::Folder => {}
            _ => return Err(PackageError::Duplicate { path: parent.to_owned() }),
        }
    }
    Ok(())
}

/// The path in its plain form, if it stays below the root.
fn inside(path: &Path) -> Result<PathBuf, PackageError> {
    let refuse = |why| Err(PackageError::Unsafe { path: path.to_owned(), why });
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refuse("'..' stands in it"),
            Component::RootDir | Component::Prefix(_) => return refuse("it is absolute"),
        }
    }
    Ok(plain)
}

/// A link may go up only at its beginning, and no further than to the root. As every folder on the way to the link
/// is a real one, no chain of such links leads out either.
fn check_link(link: &Path, target: &Path) -> Result<(), PackageError> {
    let refuse = |why| Err(PackageError::Unsafe { path: link.to_owned(), why });
    let depth = link.components().count().saturating_sub(1);
    let (mut ups, mut downs) = (0, 0);
    for part in target.components() {
        match part {
            Component::Normal(_) => downs += 1,
            Component::CurDir => {}
            Component::ParentDir if downs > 0 => return refuse("it is a link with '..' after a name"),
            Component::ParentDir => ups += 1,
            Component::RootDir | Component::Prefix(_) => return refuse("it is a link to an absolute path"),
        }
    }
    if ups > depth {
        return refuse("it is a link that leads out of the package");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Folder,
    Other,
}

/// Unpacks into `root`, an empty folder that nobody else writes to.
pub(super) fn unpack(tar: impl Read, root: &Path) -> Result<(), PackageError> {
    let broken = |source| PackageError::Unpack { path: root.to_owned(), source };
    let mut archive = tar::Archive::new(tar);
    let mut made: BTreeMap<PathBuf, Made> = BTreeMap::new();
    let mut total = 0_u64;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = inside(&entry.path().map_err(broken)?)?;
        if path.as_os_str().is_empty() {
            continue;
        }
        if made.len() >= ENTRIES_MAX {
            return Err(PackageError::TooLarge { what: "entries", limit: ENTRIES_MAX as u64 });
        }
        total = total.saturating_add(entry.size());
        if total > PACKAGE_BYTES_MAX {
            return Err(PackageError::TooLarge { what: "bytes", limit: PACKAGE_BYTES_MAX });
        }
        let parents = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect::<Vec<_>>();
        for parent in parents.into_iter().rev() {
            make_folder(root, parent, &mut made)?;
        }
        unpack_entry(&mut entry, root, &path, &mut made)?;
    }
    Ok(())
}

fn make_folder(root: &Path, path: &Path, made: &mut BTreeMap<PathBuf, Made>) -> Result<(), PackageError> {
    match made.get(path) {
        Some(Made::Folder) => Ok(()),
        Some(Made::Other) => Err(PackageError::Duplicate { path: path.to_owned() }),
        None => {
            let folder = root.join(path);
            fs::create_dir(&folder)
                .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)))
                .map_err(|source| PackageError::Unpack { path: path.to_owned(), source })?;
            made.insert(path.to_owned(), Made::Folder);
            Ok(())
        }
    }
}

fn unpack_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    root: &Path,
    path: &Path,
    made: &mut BTreeMap<PathBuf, Made>,
) -> Result<(), PackageError> {
    let fail = |source| PackageError::Unpack { path: path.to_owned(), source };
    match entry.header().entry_type() {
        tar::EntryType::Directory => return make_folder(root, path, made),
        tar::EntryType::Regular => {
            if made.contains_key(path) {
                return Err(PackageError::Duplicate { path: path.to_owned() });
            }
            let executable = entry.header().mode().map_err(fail)? & 0o111 != 0;
            let mut file =
                OpenOptions::new().write(true).create_new(true).open(root.join(path)).map_err(fail)?;
            std::io::copy(entry, &mut file).map_err(fail)?;
            let mode = if executable { 0o755 } else { 0o644 };
            file.set_permissions(fs::Permissions::from_mode(mode)).map_err(fail)?;
        }
        tar::EntryType::Symlink => {
            if made.contains_key(path) {
                return Err(PackageError::Duplicate { path: path.to_owned() });
            }
            let target = entry.link_name().map_err(fail)?.ok_or_else(|| PackageError::Unsafe {
                path: path.to_owned(),
                why: "it is a link without a target",
            })?;
            check_link(path, &target)?;
            std::os::unix::fs::symlink(&target, root.join(path)).map_err(fail)?;
        }
        _ => {
            return Err(PackageError::Unsafe {
                path: path.to_owned(),
                why: "it is neither a file, a folder nor a symbolic link",
            });
        }
    }
    made.insert(path.to_owned(), Made::Other);
    Ok(())
}
