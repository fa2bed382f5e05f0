//! Who asked, as far as it is counted, and whether they might.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use base::prometheus::{Histogram, head, single};
use parking_lot::Mutex;

/// Upper bounds for what is left of a certificate's time, in seconds: from half an hour to a year.
const LEFT: [f64; 14] = [
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21600.0,
    43200.0,
    86400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];
/// The names of users that are counted each for itself.
const NAMED: [&str; 5] =
    ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];
/// What the others are counted as: what looks like an address, and what does not.
const OTHERS: [&str; 2] = ["email_id", "other"];

/// What came of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticated {
    /// It is known who asks.
    Success,
    /// Nothing said who does, and somebody must be said.
    Failure,
    /// What said it is not to be believed.
    Error,
}

/// The counters of authentication and authorization.
#[derive(Debug)]
pub struct Access {
    /// By [`NAMED`], then [`OTHERS`].
    users: [AtomicU64; NAMED.len() + OTHERS.len()],
    /// By [`Authenticated`].
    attempts: [AtomicU64; 3],
    allowed: AtomicU64,
    no_opinion: AtomicU64,
    certificates: Mutex<Histogram>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            users: Default::default(),
            attempts: Default::default(),
            allowed: AtomicU64::new(0),
            no_opinion: AtomicU64::new(0),
            certificates: Mutex::new(Histogram::new(&LEFT)),
        }
    }
}

impl Access {
    /// A request said who asks.
    pub fn authenticated(&self, user: &str) {
        let others = || NAMED.len() + usize::from(!user.contains('@'));
        let at = NAMED.iter().position(|n| *n == user).unwrap_or_else(others);
        if let Some(n) = self.users.get(at) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        self.attempt(Authenticated::Success);
    }

    /// A request did not.
    pub fn attempt(&self, result: Authenticated) {
        if let Some(n) = self.attempts.get(result as usize) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request said it by a certificate that ends after so long; in the past: negative seconds.
    pub fn certificate(&self, left: f64) {
        self.certificates.lock().observe_value(left);
    }

    /// Whether what is asked is allowed was decided.
    pub fn authorized(&self, allowed: bool) {
        let n = if allowed { &self.allowed } else { &self.no_opinion };
        n.fetch_add(1, Ordering::Relaxed);
    }

    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        let mut one = |name: &str, help: &str, label: &str, lines: &[(&str, &AtomicU64)]| {
            head(out, name, "counter", help);
            for (value, n) in lines {
                let n = n.load(Ordering::Relaxed);
                // As of other labels, what never was is not told.
                if n > 0 {
                    let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {n}");
                }
            }
        };
        let users: Vec<_> = NAMED.into_iter().chain(OTHERS).zip(&self.users).collect();
        one(
            "authenticated_user_requests",
            "Counter of authenticated requests broken out by username.",
            "username",
            &users,
        );
        let attempts: Vec<_> = ["success", "failure", "error"].into_iter().zip(&self.attempts).collect();
        one("authentication_attempts", "Counter of authenticated attempts.", "result", &attempts);
        one(
            "authorization_attempts_total",
            "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
            "result",
            &[("allowed", &self.allowed), ("no-opinion", &self.no_opinion)],
        );
        let name = "apiserver_client_certificate_expiration_seconds";
        head(
            out,
            name,
            "histogram",
            "Distribution of the remaining lifetime on the certificate used to authenticate a request.",
        );
        self.certificates.lock().write(out, name, "");
    }
}

/// How often tokens of service accounts were used, by what kind of token.
#[derive(Debug, Default)]
pub struct Uses {
    /// Out of a secret, of any kind.
    pub legacy: AtomicU64,
    /// Out of a secret that was made for the account.
    pub automatic: AtomicU64,
    /// The same, when it had been marked invalid.
    pub invalid: AtomicU64,
    /// Out of a secret that somebody made.
    pub manual: AtomicU64,
    /// Those that outlive the time that their bearer was told, after that time.
    pub stale: AtomicU64,
    /// The same, before it.
    pub valid: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(n: &AtomicU64) {
    n.fetch_add(1, Ordering::Relaxed);
}

impl Uses {
    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        for (what, n, help) in [
            (
                "invalid_legacy_auto_token_uses",
                &self.invalid,
                "Cumulative invalid auto-generated legacy tokens used",
            ),
            ("legacy_auto_token_uses", &self.automatic, "Cumulative auto-generated legacy tokens used"),
            ("legacy_manual_token_uses", &self.manual, "Cumulative manually created legacy tokens used"),
            ("legacy_tokens", &self.legacy, "Cumulative legacy service account tokens used"),
            ("stale_tokens", &self.stale, "Cumulative stale projected service account tokens used"),
            ("valid_tokens", &self.valid, "Cumulative valid projected service account tokens used"),
        ] {
            let name = format!("serviceaccount_{what}_total");
            single(out, &name, "counter", help, n.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_by_what_they_look_like() {
        let access = Access::default();
        for user in ["admin", "system:serviceaccount:kube-system:default", "ann@example.com", "ann", "bob"] {
            access.authenticated(user);
        }
        access.attempt(Authenticated::Failure);
        access.authorized(false);
        for left in [-1.0, 7200.0, 1e9] {
            access.certificate(left);
        }
        let mut out = String::new();
        access.render(&mut out);
        for line in [
            "authenticated_user_requests{username=\"admin\"} 1",
            "authenticated_user_requests{username=\"system:serviceaccount:kube-system:default\"} 1",
            "authenticated_user_requests{username=\"email_id\"} 1",
            "authenticated_user_requests{username=\"other\"} 2",
            "authentication_attempts{result=\"success\"} 5",
            "authentication_attempts{result=\"failure\"} 1",
            "authorization_attempts_total{result=\"no-opinion\"} 1",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"0\"} 1",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"7200\"} 2",
            "apiserver_client_certificate_expiration_seconds_count 3",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} in {out}");
        }
    }
}
