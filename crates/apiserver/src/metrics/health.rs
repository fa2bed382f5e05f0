//! What came of the checks of health, whenever somebody asked.

use std::collections::BTreeMap;
use std::fmt::Write;

use base::prometheus::head;
use parking_lot::Mutex;

/// The results of checks, by their names and what asked for them (`healthz`, `livez`, `readyz`).
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<(String, String), Results>>);

#[derive(Debug, Default)]
struct Results {
    passed: u64,
    failed: u64,
    good: bool,
}

impl Health {
    /// A check was made.
    pub fn checked(&self, name: &str, of: &str, good: bool) {
        let mut all = self.0.lock();
        let results = all.entry((name.to_owned(), of.to_owned())).or_default();
        *(if good { &mut results.passed } else { &mut results.failed }) += 1;
        results.good = good;
    }

    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        let all = self.0.lock();
        let name = "kubernetes_healthcheck";
        head(out, name, "gauge", "This metric records the result of a single healthcheck.");
        for ((check, of), results) in all.iter() {
            let _ = writeln!(out, "{name}{{name=\"{check}\",type=\"{of}\"}} {}", u8::from(results.good));
        }
        let name = "kubernetes_healthchecks_total";
        head(out, name, "counter", "This metric records the results of all healthcheck.");
        for ((check, of), results) in all.iter() {
            for (status, n) in [("error", results.failed), ("success", results.passed)] {
                if n > 0 {
                    let _ = writeln!(out, "{name}{{name=\"{check}\",status=\"{status}\",type=\"{of}\"}} {n}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_and_all_of_them() {
        let health = Health::default();
        for good in [true, true, false] {
            health.checked("etcd", "livez", good);
        }
        health.checked("ping", "readyz", true);
        let mut out = String::new();
        health.render(&mut out);
        for line in [
            "kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 0",
            "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"} 2",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"livez\"} 1",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} in {out}");
        }
    }
}
