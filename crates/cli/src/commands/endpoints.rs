//! `tidegate endpoints`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use clap::Args;
use tidegate_api::Endpoints;

/// Show where every service is called, in every environment and Region.
#[derive(Debug, Args)]
pub(crate) struct Options {}

pub(crate) async fn run(global: &Global, _: Options) -> Result<(), CliError> {
    let answer = Client::new(global)?.get::<Endpoints>("/v1/endpoints").await?;
    answer.tell(global, |all| {
        let name = |e: &tidegate_api::Endpoint| format!("{}/{}/{}", e.service, e.environment, e.region);
        let width = all.endpoints.iter().map(|e| name(e).len()).max().unwrap_or(0);
        all.endpoints.iter().map(|e| format!("{:width$}  {}\n", name(e), e.url)).collect()
    })
}
