//! One command per file: its options with their manual, and what it does.

pub(crate) mod adopt;
pub(crate) mod alarm;
pub(crate) mod apply;
pub(crate) mod approve;
pub(crate) mod backup;
pub(crate) mod build_log;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod endpoints;
pub(crate) mod fleet;
pub(crate) mod fuzz;
pub(crate) mod gc;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod override_;
pub(crate) mod packages;
pub(crate) mod restore;
pub(crate) mod retire;
pub(crate) mod retry;
pub(crate) mod rollback;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod sim;
pub(crate) mod simulate;
pub(crate) mod skip;
pub(crate) mod status;
pub(crate) mod synth;
pub(crate) mod token;
pub(crate) mod unhold;
pub(crate) mod unskip;
pub(crate) mod watch;
pub(crate) mod why;

use crate::Global;
use crate::client::Answer;
use crate::error::CliError;
use tidegate_api::Done;

/// Tells what was done.
fn tell_done(global: &Global, answer: &Answer<Done>) -> Result<(), CliError> {
    answer.tell(global, |done| match done.number {
        Some(number) => format!("{number}  {}\n", done.text),
        None => format!("{}\n", done.text),
    })
}
