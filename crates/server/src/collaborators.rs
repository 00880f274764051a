//! What the HTTP API needs of the hands.

use crate::adopt::NotAdopted;
use crate::backup::Backups;
use crate::gc;
use crate::hands::{self, ALL_BUILDS, Hands, Poller};
use crate::http::Collaborators;
use crate::standby;
use crate::telemetry::{Page, of_server};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_api::{
    AdoptRequest, Adopted, BadPackage, Endpoint, GcAnswer, PackagesVerified, StandbyStatus, VERSION,
    WorkTrouble,
};
use tidegate_core::causes;
use tidegate_core::decision::Actor;
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tidegate_workers::secrets::SecretStore;

/// The hands, as the API sees them.
pub(crate) struct HandsForApi {
    /// The hands.
    pub(crate) hands: Arc<Hands>,
    /// Their look at sources.
    pub(crate) poller: Arc<Poller>,
    /// Makes backups.
    pub(crate) backups: Arc<Backups>,
}

impl Collaborators for HandsForApi {
    fn source_changed(&self, _url: &str) {
        self.poller.notify();
    }

    fn source_hinted(&self, url: &str) {
        self.poller.hint(url);
    }

    fn build_log(&self, pipeline: &PipelineId, release: ReleaseNo) -> PathBuf {
        Hands::build_log(&self.hands.dirs, pipeline, release)
    }

    fn troubles(&self) -> Vec<WorkTrouble> {
        self.hands.troubles.list(self.hands.runtime.now())
    }

    fn standbys(&self) -> Vec<StandbyStatus> {
        standby::waiting(&self.hands.dirs.data)
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, String>> {
        async {
            let known = self.hands.engines.fleet.endpoints().await.map_err(|e| causes(&e))?;
            let endpoint = |e: tidegate_fleet::protocol::Endpoint| Endpoint {
                service: e.endpoint.service,
                environment: e.endpoint.environment,
                region: e.endpoint.region,
                url: e.url,
            };
            Ok(known.into_iter().map(endpoint).collect())
        }
        .boxed()
    }

    fn secrets(&self) -> &SecretStore {
        &self.hands.secrets
    }

    fn adopt<'a>(
        &'a self,
        pipeline: &'a PipelineId,
        request: &'a AdoptRequest,
        by: &'a Actor,
    ) -> BoxFuture<'a, Result<Adopted, NotAdopted>> {
        crate::adopt::adopt(&self.hands, pipeline, request, by).boxed()
    }

    fn verify_packages(&self) -> BoxFuture<'_, Result<PackagesVerified, String>> {
        let verify = |hands: &Hands| {
            let mut all = PackagesVerified { version: VERSION, good: 0, bad: Vec::new() };
            for digest in hands.packages.list().map_err(|e| causes(&e))? {
                match hands.packages.verify(&digest, &hands.trusted_keys) {
                    Ok(_) => all.good += 1,
                    Err(why) => {
                        all.bad.push(BadPackage { package: digest.to_string(), why: why.to_string() })
                    }
                }
            }
            Ok(all)
        };
        async move { self.hands.blocking(verify).await }.boxed()
    }

    fn collect(&self, dry_run: bool) -> BoxFuture<'_, Option<Result<GcAnswer, String>>> {
        async move {
            let collected = if dry_run {
                self.hands.blocking(|hands| gc::collect(hands, true)).await
            } else {
                let places = Arc::clone(&self.hands.build_places).try_acquire_many_owned(ALL_BUILDS);
                hands::collect(&self.hands, places.ok()?).await
            };
            Some(collected.map_err(|error| causes(&error)))
        }
        .boxed()
    }

    fn measure(&self, page: &mut Page, by_pipeline: bool) {
        of_server(page, &self.hands, by_pipeline);
    }

    fn backups(&self) -> Option<Arc<Backups>> {
        Some(Arc::clone(&self.backups))
    }
}
