//! Figures in the text form that Prometheus reads (exposition format 0.0.4), written into a `String`.

mod process;

use std::fmt::{Display, Write};
use std::time::Duration;

pub use process::process;

/// The first lines of a metric; `kind` is `counter`, `gauge` or `histogram`.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A metric of one value without labels.
pub fn single(out: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    head(out, name, kind, help);
    let _ = writeln!(out, "{name} {value}");
}

/// A label's value, in its quotes.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// How often something took how long, or was how large.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    /// By bucket, each without the ones below it.
    buckets: Box<[u64]>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// An empty one; `bounds` are the upper bounds of its buckets, ascending; in seconds, if it counts times.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()].into(), count: 0, sum: 0.0 }
    }

    /// Counts one more that took so long.
    pub fn observe(&mut self, took: Duration) {
        self.observe_value(took.as_secs_f64());
    }

    /// Counts one more of this value.
    pub fn observe_value(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        let at = self.bounds.iter().position(|b| value <= *b);
        if let Some(n) = at.and_then(|i| self.buckets.get_mut(i)) {
            *n += 1;
        }
    }

    /// Counts what another one has counted, whose buckets are the same.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        for (n, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *n += more;
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Its lines; `labels` are written as they are, and may be empty.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let (inside, alone) = match labels {
            "" => (String::new(), String::new()),
            labels => (format!("{labels},"), format!("{{{labels}}}")),
        };
        let mut below = 0;
        for (bound, n) in self.bounds.iter().zip(&self.buckets) {
            below += n;
            let _ = writeln!(out, "{name}_bucket{{{inside}le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{{inside}le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{alone} {}", self.sum);
        let _ = writeln!(out, "{name}_count{alone} {}", self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let mut histogram = Histogram::new(&[0.005, 0.05, 60.0]);
        for ms in [1, 30, 30, 100_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        for (labels, inside, alone) in [("a=\"b\"", "a=\"b\",", "{a=\"b\"}"), ("", "", "")] {
            let mut out = String::new();
            histogram.write(&mut out, "m", labels);
            let want = [("0.005", 1), ("0.05", 3), ("60", 3), ("+Inf", 4)];
            for (bound, n) in want {
                let line = format!("m_bucket{{{inside}le=\"{bound}\"}} {n}");
                assert!(out.lines().any(|l| l == line), "{line} in {out}");
            }
            assert!(out.lines().any(|l| l == format!("m_count{alone} 4")), "{out}");
        }
        assert_eq!(histogram.count(), 4);
        histogram.add(&histogram.clone());
        let mut out = String::new();
        histogram.write(&mut out, "m", "");
        assert!(out.contains("m_bucket{le=\"0.05\"} 6\n") && out.contains("m_count 8\n"), "{out}");
    }

    #[test]
    fn values_of_labels_are_quoted() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
