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
    // What builds it is needed without network as well; what tests it is no part of the package.
    let backend =
        strings(text, "[build-system]", "requires").unwrap_or_else(|| vec!["setuptools".to_owned()]);
    let tested = text.contains("pytest");
    let mut download = words("python3 -m pip download --dest /cache .");
    download.extend(backend);
    download.extend(tested.then(|| "pytest".to_owned()));
    let install = "python3 -m pip install --no-index --find-links /cache --target";
    let mut steps = vec![step("build", &format!("{install} package ."))];
    if tested {
        steps.push(step("test tools", &format!("{install} test-tools pytest")));
        steps.push(step(
            "test",
            "env PYTHONPATH=package:test-tools python3 -m pytest --ignore package --ignore test-tools",
        ));
    }
    Proposal {
        fetch: vec![("dependencies".to_owned(), download)],
        lock_files: vec!["pyproject.toml".to_owned()],
        steps,
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
    let parent = element(text, "parent").unwrap_or_default();
    let build = element(text, "build").unwrap_or_default();
    let nested = ["parent", "build", "dependencies", "dependencyManagement", "profiles", "reporting"];
    let own = nested.iter().fold(text.to_owned(), |text, name| match element(&text, name) {
        Some(inside) => text.replacen(inside, "", 1),
        None => text,
    });
    let artifact = element(&own, "artifactId");
    let service = service(artifact, folder);
    let version = element(&own, "version").or_else(|| element(parent, "version")).unwrap_or("1.0-SNAPSHOT");
    let artifact = artifact.unwrap_or(&service);
    // The one jar that it names; beside it there may be others, of sources and tests.
    let jar = element(build, "finalName").unwrap_or("${project.artifactId}-${project.version}");
    let jar = jar.replace("${project.artifactId}", artifact).replace("${project.version}", version);
    Proposal {
        fetch: vec![step("dependencies", "mvn -B -Dmaven.repo.local=/cache dependency:go-offline")],
        lock_files: vec!["pom.xml".to_owned()],
        steps: vec![step("build and test", "mvn -B -o -Dmaven.repo.local=/cache verify")],
        package: vec![(format!("target/{jar}.jar"), "app.jar".to_owned())],
        command: words("java -jar app.jar"),
        service,
        ..Proposal::default()
    }
}

/// What the first element of this name holds.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    after.split_once(&format!("</{name}>")).map(|(inside, _)| inside.trim())
}

fn step(name: &str, run: &str) -> (String, Vec<String>) {
    (name.to_owned(), words(run))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A key's list of texts in a section of a TOML file, over as many lines as it has.
fn strings(text: &str, section: &str, key: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let of_key = |line: &&str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    let mut lines = lines.skip_while(|line| !line.starts_with('[') && !of_key(line)).peekable();
    lines.peek().filter(|line| of_key(line))?;
    let rest = lines.collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    // Between quotes is a text, outside of them a ']' ends the list.
    for (n, part) in rest.split(['"', '\'']).enumerate() {
        match n % 2 {
            0 if part.contains(']') => return Some(found),
            0 => {}
            _ => found.push(part.to_owned()),
        }
    }
    None
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
    fn a_python_package_holds_no_test_tools_and_its_builder_is_fetched() {
        let text =
            "[build-system]\nrequires = [\n  'hatchling',\n  \"x[toml]>=1\",\n]\n[project]\nname = 'a'\n";
        let found = python(text, "a");
        assert_eq!(
            found.fetch[0].1.join(" "),
            "python3 -m pip download --dest /cache . hatchling x[toml]>=1"
        );
        assert_eq!(found.steps.len(), 1);
        let tested = python("[project]\nname = 'a'\n[tool.pytest.ini_options]\n", "a");
        assert!(tested.fetch[0].1.join(" ").ends_with(" . setuptools pytest"), "{tested:?}");
        let into_package: Vec<_> =
            tested.steps.iter().filter(|(_, run)| run.contains(&"package".to_owned())).collect();
        assert!(!into_package[0].1.contains(&"pytest".to_owned()), "{tested:?}");
        assert_eq!(strings("[a]\nb = 'c'\n[d]\nrequires = ['e']", "[a]", "requires"), None);
    }

    #[test]
    fn maven_takes_the_jar_that_the_file_names() {
        let jar = |text: &str| maven(text, "folder").package[0].0.clone();
        let parent = "<parent><artifactId>p</artifactId><version>7</version></parent>";
        let plugin = "<build><plugins><plugin><artifactId>q</artifactId><version>9</version></plugin></plugins></build>";
        assert_eq!(
            jar(&format!("<project>{plugin}{parent}<artifactId>web</artifactId></project>")),
            "target/web-7.jar"
        );
        let own = "<artifactId>web</artifactId><version>2</version>";
        assert_eq!(jar(&format!("<project>{parent}{own}{plugin}</project>")), "target/web-2.jar");
        let named = "<build><finalName>${project.artifactId}-all</finalName></build>";
        assert_eq!(jar(&format!("<project>{own}{named}</project>")), "target/web-all.jar");
    }

    #[test]
    fn names_become_words_and_classes() {
        assert_eq!(word("--My Web!--").as_deref(), Some("my-web"));
        assert_eq!(word("!!"), None);
        assert_eq!(class("my-web"), "MyWeb");
        assert_eq!(class("3d"), "Service3d");
    }
}
