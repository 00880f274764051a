//! Prometheus's text format, as much of it as is needed here.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How it is sent.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of figures.
#[derive(Debug, Default)]
pub struct Page(String);

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows, and begins anew with the process.
    Counter,
    /// It is so now.
    Gauge,
    /// Durations.
    Histogram,
}

impl Page {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = match value.is_infinite() {
            true => writeln!(self.0, " {}Inf", if value > 0.0 { "+" } else { "-" }),
            false => writeln!(self.0, " {value}"),
        };
    }

    /// A family of one sample without labels.
    pub fn one(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        for (bound, bucket) in BOUNDS_S.iter().zip(&histogram.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&bound.to_string()));
            let _ = writeln!(self.0, " {below}");
        }
        let count = below + histogram.beyond.load(Ordering::Relaxed);
        let _ = write!(self.0, "{name}_bucket");
        self.labels(labels, Some("+Inf"));
        let _ = writeln!(self.0, " {count}");
        let seconds = Duration::from_millis(histogram.sum_ms.load(Ordering::Relaxed)).as_secs_f64();
        self.sample(&format!("{name}_sum"), labels, seconds);
        let _ = write!(self.0, "{name}_count");
        self.labels(labels, None);
        let _ = writeln!(self.0, " {count}");
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (n, (name, value)) in all.clone().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{name}=\"{value}\"", if n == 0 { '{' } else { ',' });
        }
        if all.count() > 0 {
            self.0.push('}');
        }
    }

    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

/// Upper bounds of the buckets, in seconds: from an order to an engine up to a long rollback.
const BOUNDS_S: [f64; 14] =
    [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0];

/// Durations by size.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len()],
    beyond: AtomicU64,
    sum_ms: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS_S.iter().position(|bound| took.as_secs_f64() <= *bound);
        bucket.map_or(&self.beyond, |n| &self.buckets[n]).fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let mut page = Page::default();
        page.one("tidegate_epoch", Kind::Gauge, "The server's epoch.", 7.0);
        page.family("tidegate_odd", Kind::Counter, "Odd labels.");
        page.sample("tidegate_odd", &[("a", "say \"no\"\n"), ("b", "\\")], 0.25);
        let histogram = Histogram::default();
        for ms in [1, 5, 6, 100, 700_000, 20_000_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        page.family("tidegate_took_seconds", Kind::Histogram, "Durations.");
        page.histogram("tidegate_took_seconds", &[("effect", "build")], &histogram);
        expect![[r#"
            # HELP tidegate_epoch The server's epoch.
            # TYPE tidegate_epoch gauge
            tidegate_epoch 7
            # HELP tidegate_odd Odd labels.
            # TYPE tidegate_odd counter
            tidegate_odd{a="say \"no\"\n",b="\\"} 0.25
            # HELP tidegate_took_seconds Durations.
            # TYPE tidegate_took_seconds histogram
            tidegate_took_seconds_bucket{effect="build",le="0.005"} 2
            tidegate_took_seconds_bucket{effect="build",le="0.025"} 3
            tidegate_took_seconds_bucket{effect="build",le="0.1"} 4
            tidegate_took_seconds_bucket{effect="build",le="0.5"} 4
            tidegate_took_seconds_bucket{effect="build",le="1"} 4
            tidegate_took_seconds_bucket{effect="build",le="2.5"} 4
            tidegate_took_seconds_bucket{effect="build",le="5"} 4
            tidegate_took_seconds_bucket{effect="build",le="10"} 4
            tidegate_took_seconds_bucket{effect="build",le="30"} 4
            tidegate_took_seconds_bucket{effect="build",le="60"} 4
            tidegate_took_seconds_bucket{effect="build",le="300"} 4
            tidegate_took_seconds_bucket{effect="build",le="900"} 5
            tidegate_took_seconds_bucket{effect="build",le="3600"} 5
            tidegate_took_seconds_bucket{effect="build",le="14400"} 5
            tidegate_took_seconds_bucket{effect="build",le="+Inf"} 6
            tidegate_took_seconds_sum{effect="build"} 20700.112
            tidegate_took_seconds_count{effect="build"} 6
        "#]]
        .assert_eq(&page.into_text());
    }
}
