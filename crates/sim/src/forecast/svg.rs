//! The same picture as a drawing: a row for each step, a bar for each release in it; paler while it bakes, red while it is
//! taken back. What a bar is stands in its title.

use super::picture::{Doing, rows};
use super::result::Forecast;
use super::text::{when, zone};
use jiff::civil;
use std::fmt::Write;
use tidegate_core::units::Timestamp;

const WIDTH: u64 = 1_200;
const LABELS: u64 = 160;
const ROW: u64 = 18;
const HEAD: u64 = 24;
/// Colours of releases, in turn; legible beside each other.
const COLOURS: [&str; 8] =
    ["#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];

/// The forecast as an SVG document.
#[must_use]
pub fn svg(forecast: &Forecast) -> String {
    let zone = zone(forecast);
    let rows = rows(forecast);
    let all = forecast.end.since(forecast.start).millis().max(1);
    let x = |at: Timestamp| LABELS + (WIDTH - LABELS) * at.since(forecast.start).millis().min(all) / all;
    let height = HEAD + ROW * rows.len() as u64 + 8;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut date = super::scenario::local(forecast.start, &zone).map(civil::DateTime::date);
    while let Some(day) = date {
        let at = super::scenario::instant(day.to_datetime(civil::Time::midnight()), &zone);
        if at >= forecast.end {
            break;
        }
        let x = x(at);
        let name = day.strftime("%a %d %b");
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"0\" x2=\"{x}\" y2=\"{height}\" stroke=\"#dddddd\"/><text x=\"{}\" y=\"14\" fill=\"#555555\">{name}</text>",
            x + 3
        );
        date = day.tomorrow().ok();
    }
    for (n, row) in rows.iter().enumerate() {
        let y = HEAD + ROW * n as u64;
        let _ = writeln!(out, "<text x=\"4\" y=\"{}\" fill=\"#222222\">{}</text>", y + 12, escape(&row.name));
        for stretch in &row.stretches {
            let (from, until) = (x(stretch.from), x(stretch.until));
            let width = until.saturating_sub(from).max(1);
            let turn = usize::try_from(stretch.release.0).unwrap_or(0) % COLOURS.len();
            let (colour, opacity, word) = match stretch.doing {
                Doing::Deploys => (COLOURS[turn], "1", "deploys"),
                Doing::Bakes => (COLOURS[turn], "0.5", "bakes"),
                Doing::Returns => ("#d62728", "1", "is taken back"),
            };
            let title = format!(
                "{} {word} in {}, {} to {}",
                stretch.release,
                row.name,
                when(stretch.from, &zone),
                when(stretch.until, &zone)
            );
            let _ = writeln!(
                out,
                "<rect x=\"{from}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"><title>{}</title></rect>",
                ROW - 3,
                escape(&title)
            );
            if width > 22 && stretch.doing == Doing::Bakes {
                let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", from + 3, y + 12, stretch.release);
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
