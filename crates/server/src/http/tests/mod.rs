//! The API as a client sees it, on a real runtime over the store in memory.

mod access;
mod definitions;
mod events;
mod orders;
mod outside;
mod reading;
mod webhooks;

use super::{Api, Collaborators, router};
use crate::adopt::NotAdopted;
use crate::apply::Applier;
use crate::auth::{ADMIN_TOKEN_FILE, Tokens};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tidegate_api::{AdoptRequest, Adopted, Endpoint, PackagesVerified, VERSION};
use tidegate_core::change::{Commit, SourceObservation};
use tidegate_core::decision::{Actor, AggregateId, Event};
use tidegate_core::ids::{CommitId, PipelineId, ReleaseNo, UserId};
use tidegate_core::pipeline::PipelineEvent;
use tidegate_core::units::Timestamp;
use tidegate_runtime::{Clock, Lane, Listener, Options, Runtime, Start};
use tidegate_store::MemoryStore;
use tidegate_workers::secrets::SecretStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

struct Minutes(AtomicI64);

impl Clock for Minutes {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000, Ordering::SeqCst))
    }
}

struct Bell(watch::Sender<u64>);

impl Listener for Bell {
    fn committed(&self, _: &[AggregateId], _: &[Lane]) {
        self.0.send_modify(|n| *n += 1);
    }
}

#[derive(Default)]
struct Outside {
    data: PathBuf,
    notified: Mutex<Vec<String>>,
    secrets: Option<SecretStore>,
}

impl Collaborators for Outside {
    fn troubles(&self) -> Vec<tidegate_api::WorkTrouble> {
        Vec::new()
    }

    fn source_changed(&self, url: &str) {
        self.notified.lock().unwrap().push(url.to_owned());
    }

    fn build_log(&self, pipeline: &PipelineId, release: ReleaseNo) -> PathBuf {
        self.data.join(format!("{pipeline}-{release}.log"))
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, String>> {
        let of = |region: &str| Endpoint {
            service: "frontend".parse().unwrap(),
            environment: "beta".parse().unwrap(),
            region: region.parse().unwrap(),
            url: "http://127.0.0.1:1".to_owned(),
        };
        Box::pin(async move { Ok(vec![of("us-1"), of("eu-1")]) })
    }

    fn secrets(&self) -> &SecretStore {
        self.secrets.as_ref().unwrap()
    }

    fn adopt<'a>(
        &'a self,
        _: &'a PipelineId,
        _: &'a AdoptRequest,
        _: &'a Actor,
    ) -> BoxFuture<'a, Result<Adopted, NotAdopted>> {
        Box::pin(async { Err(NotAdopted::Failed("there is no machine here".to_owned())) })
    }

    fn verify_packages(&self) -> BoxFuture<'_, Result<PackagesVerified, String>> {
        Box::pin(async { Ok(PackagesVerified { version: VERSION, good: 3, bad: Vec::new() }) })
    }
}

struct World {
    router: Router,
    runtime: Arc<Runtime>,
    tokens: Arc<Tokens>,
    outside: Arc<Outside>,
    admin: String,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

/// A server on which nothing has been applied.
fn empty() -> World {
    let dir = tempfile::tempdir().unwrap();
    let bell = Bell(watch::Sender::new(0));
    let commits = bell.0.subscribe();
    let clock = Arc::new(Minutes(AtomicI64::new(1_700_000_000_000)));
    let options = Options { listener: Some(Arc::new(bell)), ..Options::default() };
    let runtime = Arc::new(Runtime::open(Arc::new(MemoryStore::new()), clock, options, 0).unwrap());
    let tokens = Arc::new(Tokens::open(dir.path(), Timestamp(0)).unwrap());
    let admin = std::fs::read_to_string(dir.path().join(ADMIN_TOKEN_FILE)).unwrap().trim().to_owned();
    let secrets = SecretStore::open(&dir.path().join("secrets")).ok();
    let outside = Arc::new(Outside { data: dir.path().to_owned(), notified: Mutex::default(), secrets });
    let stop = CancellationToken::new();
    let api = Api::new(
        Arc::clone(&runtime),
        Applier::new(Arc::clone(&runtime)),
        Arc::clone(&tokens),
        Arc::clone(&outside) as Arc<dyn Collaborators>,
        commits,
        stop.clone(),
    );
    World { router: router(api), runtime, tokens, outside, admin, stop, dir }
}

/// A server with an organisation and a pipeline.
async fn applied() -> World {
    let world = empty();
    for (path, definition) in [("/v1/organisation", organisation()), ("/v1/pipelines", pipeline())] {
        let (status, answer) = world.call("PUT", path, &world.admin, &definition.to_string()).await;
        assert_eq!((status, &answer["changed"]), (StatusCode::OK, &json!(true)), "{answer}");
    }
    world
}

fn organisation() -> Value {
    json!({
        "schema": "tidegate.organisation/1",
        "name": "shop",
        "users": [
            {"name": "alice", "emails": ["alice@shop.example"]},
            {"name": "bob", "emails": ["bob@shop.example"]},
            {"name": "carol"},
            {"name": "root", "roles": ["administrator"]},
        ],
        "teams": [
            {"name": "web", "members": ["alice", "bob"], "late_approval": "allow"},
            {"name": "data", "members": ["bob"]},
        ],
        "services": [{"name": "frontend", "team": "web"}],
        "regions": [
            {"name": "eu-1", "azs": ["a", "b"], "traffic": 10},
            {"name": "us-1", "azs": ["a", "b"], "traffic": 20},
        ],
    })
}

fn pipeline() -> Value {
    json!({
        "schema": "tidegate.pipeline/1",
        "name": "frontend",
        "service": "frontend",
        "sources": [{"name": "code", "url": "https://git.example/frontend.git"}],
        "build": {"steps": [{"name": "make", "run": ["make"]}], "package": [{"from": "code/out", "to": "bin"}]},
        "run": {"engine": {"process": {"command": ["bin/frontend"], "health": {"path": "/health"}}}},
        "stages": [
            {"environment": "beta", "regions": ["eu-1"], "bake": {"az": "1m"}},
            {"environment": "production", "one_box": true, "waves": [
                {"regions": ["eu-1"], "steps": [["eu-1/a"], ["eu-1/b"]]},
                {"regions": ["us-1"]},
            ]},
        ],
    })
}

fn commit_id(digit: char) -> CommitId {
    CommitId::new(digit.to_string().repeat(40)).unwrap()
}

impl World {
    fn token(&self, user: &str) -> String {
        self.tokens.create(UserId::new(user).unwrap(), Timestamp(0)).unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: &str) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = self.send(request.body(Body::from(body.to_owned())).unwrap()).await;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The mainline has a new commit by alice.
    fn push(&self, digit: char, parent: Option<char>, subject: &str) {
        let commit = Commit {
            id: commit_id(digit),
            parents: parent.map(commit_id).into_iter().collect(),
            author_name: "Alice".to_owned(),
            author_email: "alice@shop.example".to_owned(),
            committed_at: Timestamp(0),
            subject: subject.to_owned(),
            reverts: Vec::new(),
            fixes: Vec::new(),
        };
        let observation =
            SourceObservation { head: commit_id(digit), commits: vec![commit], rewritten: false };
        let event = PipelineEvent::SourceObserved { source: "code".parse().unwrap(), observation };
        let id = PipelineId::new("frontend").unwrap();
        self.runtime.submit(&Event::Pipeline(id.clone(), event), &Actor::Tidegate).unwrap();
    }

    fn tick(&self) {
        let id = PipelineId::new("frontend").unwrap();
        self.runtime.submit(&Event::Pipeline(id, PipelineEvent::Tick), &Actor::Tidegate).unwrap();
    }

    fn tokens_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn newest_position(&self) -> u64 {
        self.runtime.log(None, Start::Before(u64::MAX), 1).unwrap().first().map_or(0, |e| e.position)
    }
}
