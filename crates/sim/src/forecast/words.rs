//! Faults and missing things in words.

use super::scenario::{Fault, Harm};
use tidegate_core::bake::Missing;

/// A fault in one line.
#[must_use]
pub fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Regression(r) => {
            let mut text = match &r.harm {
                Harm::Faults(percent) => {
                    format!("regression in r{}: {} % of the requests fail", r.release, percent.get())
                }
                Harm::Latency(more) => format!("regression in r{}: requests take {more} longer", r.release),
                Harm::Crash => format!("regression in r{}: boxes end when they start", r.release),
            };
            if let Some(api) = &r.api {
                text.push_str(&format!(", only of {api}"));
            }
            if let Some(region) = &r.region {
                text.push_str(&format!(", only in {region}"));
            }
            if let Some(above) = r.above_requests_per_second {
                text.push_str(&format!(", only on boxes above {above} requests/s"));
            }
            if r.after.millis() > 0 {
                text.push_str(&format!(", {} after a box is healthy", r.after));
            }
            text
        }
        Fault::Outage(o) => {
            format!("an outage of elsewhere in {}, from {} until {}", o.region, o.from, o.until)
        }
        Fault::Blind(b) => format!("{} does not report, from {} until {}", b.region, b.from, b.until),
        Fault::LargeScaleEvent(e) => format!("a large-scale event, from {} until {}", e.from, e.until),
        Fault::SlowEngine(s) => {
            let place = s.region.as_ref().map_or_else(String::new, |region| format!(" in {region}"));
            format!("orders come {} late{place}, from {} until {}", s.delay, s.from, s.until)
        }
        Fault::SickBox(s) => format!("a box in {} never gets healthy with r{}", s.region, s.release),
    }
}

/// What a bake still waits for.
#[must_use]
pub fn missing(missing: &Missing) -> String {
    match missing {
        Missing::Time { region, left } => format!("{left} of watched time in {region}"),
        Missing::Requests { region, api, seen, needed } => {
            let api = api.as_ref().map_or_else(String::new, |api| format!(" to {api}"));
            format!("{} of {needed} requests{api} in {region}", needed.saturating_sub(*seen))
        }
    }
}
