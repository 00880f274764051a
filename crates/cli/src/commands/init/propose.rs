//! What a repository's own files say of how it is built. These are proposals, for people to look at: nothing is run.

use crate::error::CliError;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use tidegate_core::ids::ServiceId;

/// The most that is read of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Steps = Vec<(String, Vec<String>)>;

/// How a service may be built, tested and started.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Proposal {
    /// The service's name: what the file says, or the folder's.
    pub(super) service: String,
    /// The file that said so.
    pub(super) seen: Option<&'static str>,
    pub(super) fetch: Steps,
    pub(super) lock_files: Vec<String>,
    pub(super) steps: Steps,
    pub(super) package: Vec<(String, String)>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) command: Vec<String>,
}

pub(super) fn propose(repository: &Path) -> Result<Proposal, CliError> {
    let folder = fs::canonicalize(repository)
        .map_err(|e| CliError::failed(format!("find {}", repository.display()), e))?;
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    type Of = fn(&str, &str) -> Proposal;
    let kinds: [(&'static str, Of); 5] = [
        ("Cargo.toml", cargo),
        ("package.json", npm),
        ("pyproject.toml", python),
        ("go.mod", go),
        ("pom.xml", maven),
    ];
    for (file, of) in kinds {
        if let Some(text) = read(&repository.join(file))? {
            return Ok(Proposal { seen: Some(file), ..of(&text, &name) });
        }
    }
    Ok(Proposal {
        service: service(None, &name),
        steps: vec![step("build", "./build.sh")],
        package: vec![("out".to_owned(), ".".to_owned())],
        command: words("./server"),
        ..Proposal::default()
    })
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    let failed = |e| CliError::failed(format!("read {}", path.display()), e);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX => {
            Ok(Some(String::from_utf8_lossy(&fs::read(path).map_err(failed)?).into_owned()))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn cargo(text: &str, folder: &str) -> Proposal {
    let package = value(text, "[package]", "name");
    let service = service(package.as_deref(), folder);
    let program = package.unwrap_or_else(|| service.clone());
    Proposal {
        fetch: vec![step("dependencies", "cargo fetch --locked")],
        lock_files: vec!["Cargo.lock".to_owned()],
        steps: vec![
            step("build", "cargo build --release --locked --offline"),
            step("test", "cargo test --release --locked --offline"),
        ],
        package: vec![(format!("target/release/{program}"), program.clone())],
        environment: vec![("CARGO_HOME".to_owned(), "/cache".to_owned())],
        command: vec![format!("./{program}")],
        service,
        ..Proposal::default()
    }
}

fn npm(text: &str, folder: &str) -> Proposal {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let script = |name: &str| json["scripts"][name].is_string();
    let mut steps = vec![step("install", "npm ci --offline")];
    steps.extend(script("build").then(|| step("build", "npm run build")));
    steps.extend(script("test").then(|| step("test", "npm test")));
    let command = if script("start") {
        words("npm start")
    } else {
        vec!["node".to_owned(), json["main"].as_str().unwrap_or("index.js").to_owned()]
    };
    Proposal {
        service: service(json["name"].as_str(), folder),
        fetch: vec![step("dependencies", "npm ci")],
        lock_files: vec!["package-lock.json".to_owned()],
        steps,
        package: vec![(".".to_owned(), ".".to_owned())],
        environment: vec![("npm_config_cache".to_owned(), "/cache".to_owned())],
        command,
        ..Proposal::default()
    }
}

fn python(text: &str, folder: &str) -> Proposal {
    let name = value(text, "[project]", "name").or_else(|| value(text, "[tool.poetry]", "name"));
    let service = service(name.as_deref(), folder);
    let module = service.replace('-', "_");
    Proposal {
        fetch: vec![step("dependencies", "python3 -m pip download --dest /cache . pytest")],
        lock_files: vec!["pyproject.toml".to_owned()],
        steps: vec![
            step("build", "python3 -m pip install --no-index --find-links /cache --target package . pytest"),
            step("test", "env PYTHONPATH=package python3 -m pytest"),
        ],
        package: vec![("package".to_owned(), ".".to_owned())],
        command: words(&format!("python3 -m {module}")),
        service,
        ..Proposal::default()
    }
}

fn go(text: &str, folder: &str) -> Proposal {
    let module = text.lines().find_map(|line| line.trim().strip_prefix("module "));
    let service = service(module.and_then(|module| module.trim().rsplit('/').next()), folder);
    let cache = [("GOMODCACHE", "/cache"), ("GOCACHE", "/tmp/go"), ("GOFLAGS", "-mod=readonly")];
    Proposal {
        fetch: vec![step("dependencies", "go mod download")],
        lock_files: vec!["go.mod".to_owned(), "go.sum".to_owned()],
        steps: vec![step("build", &format!("go build -o {service} .")), step("test", "go test ./...")],
        package: vec![(service.clone(), service.clone())],
        environment: cache.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        command: vec![format!("./{service}")],
        service,
        ..Proposal::default()
    }
}

fn maven(text: &str, folder: &str) -> Proposal {
    // The first artifactId that is not the parent's.
    let own = text.split_once("</parent>").map_or(text, |(_, after)| after);
    let inside = own.split_once("<artifactId>").and_then(|(_, after)| after.split_once("</artifactId>"));
    let artifact = inside.map(|(name, _)| name.trim().to_owned());
    let service = service(artifact.as_deref(), folder);
    Proposal {
        fetch: vec![step("dependencies", "mvn -B -Dmaven.repo.local=/cache dependency:go-offline")],
        lock_files: vec!["pom.xml".to_owned()],
        steps: vec![
            step("build and test", "mvn -B -o -Dmaven.repo.local=/cache verify"),
            step("name", "sh -c mv\u{a0}target/*.jar\u{a0}target/app.jar"),
        ],
        package: vec![("target/app.jar".to_owned(), "app.jar".to_owned())],
        command: words("java -jar app.jar"),
        service,
        ..Proposal::default()
    }
}

fn step(name: &str, run: &str) -> (String, Vec<String>) {
    (name.to_owned(), words(run))
}

/// Words between blanks; a no-break space stands for a blank within a word.
fn words(text: &str) -> Vec<String> {
    text.split(' ').map(|word| word.replace('\u{a0}', " ")).collect()
}

/// A key's text in a section of a TOML file.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let pair = lines.take_while(|line| !line.starts_with('[')).find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim())
    })?;
    let quoted = pair.strip_prefix(['"', '\''])?;
    quoted.split(['"', '\'']).next().map(str::to_owned)
}

fn service(said: Option<&str>, folder: &str) -> String {
    let said = said.map(|name| name.rsplit('/').next().unwrap_or(name));
    said.and_then(word).or_else(|| word(folder)).unwrap_or_else(|| "web".to_owned())
}

/// The text as a name of the model: lower case, digits and '-'.
pub(super) fn word(text: &str) -> Option<String> {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(50)
        .collect();
    let plain = plain.trim_matches('-').to_owned();
    ServiceId::new(plain.as_str()).is_ok().then_some(plain)
}

/// The name as a class.
pub(super) fn class(service: &str) -> String {
    let name: String = service
        .split('-')
        .flat_map(|part| {
            let mut chars = part.chars();
            chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect::<Vec<_>>()
        })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("Service{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_repository_is_known_by_its_file() {
        for (file, text, service, command) in [
            ("Cargo.toml", "[workspace]\n[package]\nname = \"My_Web\"\n", "my-web", "./My_Web"),
            (
                "package.json",
                r#"{"name": "@acme/web", "main": "s.js", "scripts": {"test": "x"}}"#,
                "web",
                "node s.js",
            ),
            ("pyproject.toml", "[project]\nname = 'web-api'\n", "web-api", "python3 -m web_api"),
            ("go.mod", "module git.acme.test/web\n", "web", "./web"),
            (
                "pom.xml",
                "<p><parent><artifactId>b</artifactId></parent><artifactId>web</artifactId></p>",
                "web",
                "java -jar app.jar",
            ),
            ("README", "", "folder", "./server"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("folder");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
            let found = propose(&folder).unwrap();
            assert_eq!(
                (found.service.as_str(), found.command.join(" ").as_str()),
                (service, command),
                "{file}"
            );
            assert_eq!(found.seen, Some(file).filter(|file| *file != "README"));
            assert!(!found.package.is_empty() && !found.steps.is_empty());
        }
    }

    #[test]
    fn names_become_words_and_classes() {
        assert_eq!(word("--My Web!--").as_deref(), Some("my-web"));
        assert_eq!(word("!!"), None);
        assert_eq!(class("my-web"), "MyWeb");
        assert_eq!(class("3d"), "Service3d");
    }
}
