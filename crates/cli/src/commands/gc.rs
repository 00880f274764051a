//! `tidegate gc`.

use crate::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::text::{clean, size};
use clap::Args;
use tidegate_api::{GcAnswer, GcRequest};

/// Remove what nobody needs any more. Only administrators may. The server does this by itself once a day.
///
/// What goes: packages that no target runs, ran among its last five releases or may yet run, and that no engine was told of, after a
/// day; logs of builds of such releases, after 30 days; mirrors that no pipeline names, after 7 days; scratch of builds. Where the server
/// has a disk budget and uses more, they go earlier (after an hour), and fetched dependencies with them. Whatever a rollback may
/// need stays. The log and the states are never removed.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only say what would go, and what uses the disk.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(global: &Global, options: Options) -> Result<(), CliError> {
    let request = GcRequest { dry_run: options.dry_run };
    let answer = Client::new(global)?.post::<GcAnswer>("/v1/gc", &request).await?;
    answer.tell(global, people)?;
    match answer.value.failed.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed {
            what: "remove everything".to_owned(),
            why: answer.value.failed.iter().map(|text| clean(text)).collect::<Vec<_>>().join("; "),
        }),
    }
}

fn people(answer: &GcAnswer) -> String {
    let mut out = String::new();
    for item in &answer.items {
        out.push_str(&format!("{:<12} {:>10}  {}\n", item.kind, size(item.bytes), clean(&item.name)));
    }
    let word = if answer.dry_run { "can go" } else { "went" };
    out.push_str(&format!("{} {word}: {} of what nobody needs\n", size(answer.bytes), answer.items.len()));
    if answer.dry_run {
        let used = answer.used.iter().filter(|used| used.bytes > 0);
        let parts: Vec<String> = used.map(|used| format!("{} {}", used.name, size(used.bytes))).collect();
        let all = answer.used.iter().map(|used| used.bytes).sum();
        let budget = answer.budget.map(|budget| format!(" of a budget of {}", size(budget)));
        let (all, budget) = (size(all), budget.unwrap_or_default());
        out.push_str(&format!("in use: {all}{budget}: {}\n", parts.join(", ")));
    }
    out
}
