use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use tidegate_core::units::Timestamp;

struct Fixture {
    dir: tempfile::TempDir,
    store: PackageStore,
    key: SigningKey,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = PackageStore::open(&dir.path().join("packages")).unwrap();
    let key =
        SigningKey::load_or_create(&dir.path().join("signing.key"), &dir.path().join("trusted.pub")).unwrap();
    Fixture { dir, store, key }
}

fn provenance(key: &SigningKey) -> Provenance {
    let commit = "a".repeat(40).parse().unwrap();
    let steps = vec![StepRecord { name: "compile".into(), run: vec!["make".into()], network: false }];
    Provenance::new(
        ExternalParameters { steps, dependencies_key: None },
        vec![ResourceDescriptor::git("app", "https://host/app", &commit)],
        key.key_id(),
        Timestamp(0),
        Timestamp(1_500),
    )
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, tar: &[u8]) -> PackageDigest {
        self.store.put(tar, "app", provenance(&self.key), &self.key).unwrap()
    }

    fn tree(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(root.join("bin/deep")).unwrap();
        fs::write(root.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::write(root.join("bin/deep/data"), vec![7; 100_000]).unwrap();
        fs::write(root.join(format!("long-{}", "x".repeat(200))), "long").unwrap();
        symlink("../run", root.join("bin/deep/link")).unwrap();
        root
    }
}

fn packed(root: &Path) -> Vec<u8> {
    let [tar, dot] = ["", "."].map(|to| {
        let mut tar = Vec::new();
        pack(&[PackItem { from: root.to_owned(), to: PathBuf::from(to) }], &mut tar).unwrap();
        tar
    });
    assert_eq!(tar, dot, "a dot is the root as well");
    tar
}

#[test]
fn the_same_files_give_the_same_bytes_and_come_back_as_they_were() {
    let f = fixture();
    let first = packed(&f.tree("one"));
    let second = packed(&f.tree("two"));
    assert_eq!(first, second);

    let digest = f.put(&first);
    assert_eq!(f.put(&second), digest);
    assert_eq!(f.store.list().unwrap(), std::slice::from_ref(&digest));
    let package = f.store.verify(&digest, &f.key.trusted()).unwrap();
    assert_eq!(package.size(), first.len() as u64);
    assert_eq!(package.provenance().predicate, provenance(&f.key));
    let to = f.path("out");
    package.unpack(&to).unwrap();
    let mode = |p: &str| fs::metadata(to.join(p)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("bin/run"), mode("bin/deep/data"), mode("bin")), (0o755, 0o644, 0o755));
    assert_eq!(fs::read(to.join("bin/deep/link")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(fs::read(to.join("bin/deep/data")).unwrap().len(), 100_000);
    assert_eq!(packed(&to), first);
    assert!(matches!(package.unpack(&to), Err(PackageError::Unpack { .. })), "an existing folder is kept");

    f.store.remove(&digest).unwrap();
    assert!(matches!(f.store.verify(&digest, &f.key.trusted()), Err(PackageError::Missing { .. })));
    assert_eq!(f.store.list().unwrap(), []);
}

#[test]
fn the_provenance_has_the_form_of_the_specification() {
    let f = fixture();
    let statement = Statement::new("app", &PackageDigest::new("0".repeat(64)).unwrap(), provenance(&f.key));
    let mut json = serde_json::to_value(&statement).unwrap();
    json["predicate"]["runDetails"]["builder"]["id"] = "BUILDER".into();
    expect_test::expect![[r#"
        {
          "_type": "https://in-toto.io/Statement/v1",
          "predicate": {
            "buildDefinition": {
              "buildType": "urn:tidegate:build:v1",
              "externalParameters": {
                "steps": [
                  {
                    "name": "compile",
                    "network": false,
                    "run": [
                      "make"
                    ]
                  }
                ]
              },
              "resolvedDependencies": [
                {
                  "digest": {
                    "gitCommit": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                  },
                  "name": "app",
                  "uri": "git+https://host/app"
                }
              ]
            },
            "runDetails": {
              "builder": {
                "id": "BUILDER"
              },
              "metadata": {
                "finishedOn": "1970-01-01T00:00:01.500Z",
                "startedOn": "1970-01-01T00:00:00.000Z"
              }
            }
          },
          "predicateType": "https://slsa.dev/provenance/v1",
          "subject": [
            {
              "digest": {
                "sha256": "0000000000000000000000000000000000000000000000000000000000000000"
              },
              "name": "app"
            }
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&json).unwrap());
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn changed_bytes_are_refused_and_mended_by_the_next_put() {
    let f = fixture();
    let tar = packed(&f.tree("one"));
    let digest = f.put(&tar);
    flip(&f.store.tar_path(&digest), 5_000);
    let error = f.store.verify(&digest, &f.key.trusted()).unwrap_err();
    assert!(error.is_tampering());
    let PackageError::DigestMismatch { digest: named, actual } = error else { panic!("{error}") };
    assert_eq!(named, digest);
    assert_ne!(actual, digest);
    assert_eq!(f.put(&tar), digest);
    f.store.verify(&digest, &f.key.trusted()).unwrap();
}

#[test]
fn bytes_that_change_between_check_and_use_are_refused() {
    let f = fixture();
    let digest = f.put(&packed(&f.tree("one")));
    let package = f.store.verify(&digest, &f.key.trusted()).unwrap();
    flip(&f.store.tar_path(&digest), 5_000);
    let to = f.path("out");
    assert!(matches!(package.unpack(&to), Err(PackageError::DigestMismatch { .. })));
    assert!(!to.exists());
    let left: Vec<_> = fs::read_dir(f.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_envelope_that_was_changed_or_belongs_elsewhere_is_refused() {
    let f = fixture();
    let digest = f.put(&packed(&f.tree("one")));
    let path = f.store.envelope_path(&digest);
    let original = fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&original).unwrap();
    let payload = json["payload"].as_str().unwrap().to_owned();
    json["payload"] = format!("A{}", &payload[1..]).into();
    fs::write(&path, json.to_string()).unwrap();
    let error = f.store.verify(&digest, &f.key.trusted()).unwrap_err();
    assert!(error.to_string().contains("does not fit its content"), "{error}");
    assert!(error.to_string().contains(f.key.key_id()), "{error}");

    fs::write(&path, "{}").unwrap();
    let error = f.store.verify(&digest, &f.key.trusted()).unwrap_err();
    assert!(matches!(error, PackageError::Envelope { source: EnvelopeError::Malformed(_), .. }), "{error}");

    let other = f.put(b"another package");
    fs::copy(f.store.envelope_path(&other), &path).unwrap();
    let error = f.store.verify(&digest, &f.key.trusted()).unwrap_err();
    let PackageError::SubjectMismatch { found, .. } = error else { panic!("{error}") };
    assert_eq!(found, other.as_str());
}

#[test]
fn a_key_that_is_not_trusted_does_not_count_and_several_may_be_trusted() {
    let f = fixture();
    let digest = f.put(b"bytes");
    let stranger = SigningKey::load_or_create(&f.path("other.key"), &f.path("other.pub")).unwrap();
    let error = f.store.verify(&digest, &stranger.trusted()).unwrap_err().to_string();
    assert!(error.contains(f.key.key_id()) && error.contains(stranger.key_id()), "{error}");
    assert!(f.store.verify(&digest, &TrustedKeys::default()).is_err());

    // Rotation: a new private key, the same file of public keys.
    let rotated = SigningKey::load_or_create(&f.path("new.key"), &f.path("trusted.pub")).unwrap();
    let trusted = TrustedKeys::load(&f.path("trusted.pub")).unwrap();
    assert_eq!(trusted.key_ids().count(), 2);
    f.store.verify(&digest, &trusted).unwrap();
    let newer = f.store.put(&b"newer"[..], "app", provenance(&rotated), &rotated).unwrap();
    f.store.verify(&newer, &trusted).unwrap();
    assert!(f.store.verify(&newer, &f.key.trusted()).is_err());
}

#[test]
fn a_private_key_is_kept_is_private_and_is_made_once() {
    let f = fixture();
    let (private, public) = (f.path("signing.key"), f.path("trusted.pub"));
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    let again = SigningKey::load_or_create(&private, &public).unwrap();
    assert_eq!(again.key_id(), f.key.key_id());
    assert_eq!(TrustedKeys::load(&public).unwrap().key_ids().count(), 1);

    let ids: Vec<String> = std::thread::scope(|scope| {
        let load = || SigningKey::load_or_create(&f.path("raced.key"), &f.path("raced.pub"));
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        racers.into_iter().map(|r| r.join().unwrap().unwrap().key_id().to_owned()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));

    fs::set_permissions(&private, fs::Permissions::from_mode(0o644)).unwrap();
    let error = SigningKey::load_or_create(&private, &public).unwrap_err();
    assert!(matches!(error, PackageError::KeyReadableByOthers { mode: 0o644, .. }), "{error}");
}

/// A tar whose entries the packer would never write; names are set raw.
fn hostile(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(if *kind == tar::EntryType::Regular { 4 } else { 0 });
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let content: &[u8] = if *kind == tar::EntryType::Regular { b"evil" } else { b"" };
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_signed_archive_that_reaches_outside_is_refused() {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    type Entries<'a> = &'a [(tar::EntryType, &'a str, &'a str)];
    let cases: &[(&str, Entries<'_>)] = &[
        ("parent", &[(Regular, "../evil", "")]),
        ("parent inside", &[(Regular, "a/../../evil", "")]),
        ("absolute", &[(Regular, "/tmp/evil", "")]),
        ("absolute link", &[(Symlink, "l", "/etc")]),
        ("link out", &[(Symlink, "a/l", "../../x")]),
        ("through a link", &[(Symlink, "l", "d"), (Regular, "l/evil", "")]),
        (
            "chain of links",
            &[(Directory, "s", ""), (Symlink, "s/up", ".."), (Symlink, "out", "s/up/.."), (Regular, "x", "")],
        ),
        ("hard link", &[(Link, "l", "/etc/passwd")]),
        ("character device", &[(Char, "null", "")]),
        ("block device", &[(Block, "disk", "")]),
        ("fifo", &[(Fifo, "pipe", "")]),
        ("twice", &[(Regular, "a", ""), (Regular, "a", "")]),
        ("file as folder", &[(Regular, "a", ""), (Regular, "a/b", "")]),
    ];
    let f = fixture();
    for (what, entries) in cases {
        let digest = f.put(&hostile(entries));
        let room = f.path(&format!("room-{}", what.replace(' ', "-")));
        fs::create_dir(&room).unwrap();
        let package = f.store.verify(&digest, &f.key.trusted()).unwrap();
        let error = package.unpack(&room.join("out")).unwrap_err();
        assert!(
            matches!(error, PackageError::Unsafe { .. } | PackageError::Duplicate { .. }),
            "{what}: {error}"
        );
        assert_eq!(fs::read_dir(&room).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn packing_refuses_what_unpacking_would_refuse() {
    let f = fixture();
    let root = f.path("tree");
    fs::create_dir(&root).unwrap();
    let attempt = |items: &[(&str, &str)]| {
        let items: Vec<PackItem> =
            items.iter().map(|(from, to)| PackItem { from: root.join(from), to: to.into() }).collect();
        pack(&items, std::io::sink()).unwrap_err().to_string()
    };
    symlink("/etc", root.join("abs")).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    let shown: BTreeMap<&str, String> = [
        ("absolute link", attempt(&[("abs", "abs")])),
        ("escape", attempt(&[("file", "../file")])),
        ("missing", attempt(&[("nothing", "x")]).replace(root.to_str().unwrap(), "ROOT")),
        ("twice", attempt(&[("file", "a"), ("file", "a")])),
        ("below a file", attempt(&[("file", "a"), ("file", "a/b")])),
    ]
    .into();
    expect_test::expect![[r#"
        {
            "absolute link": "'abs' is refused in a package: it is a link to an absolute path",
            "below a file": "'a' stands twice in the package",
            "escape": "'../file' is refused in a package: '..' stands in it",
            "missing": "failed to pack 'ROOT/nothing'",
            "twice": "'a' stands twice in the package",
        }
    "#]]
    .assert_debug_eq(&shown);
}
