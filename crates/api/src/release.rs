//! Which release of Kubernetes a cluster behaves like.
//!
//! The default is the release of the tables this crate is derived from. An older one brings back what that release did and
//! current ones have dropped; it takes nothing away that has been added since.

use std::fmt;
use std::str::FromStr;

/// A release, by its major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u16,
    minor: u16,
}

impl Release {
    /// The oldest release whose behaviour can be had.
    pub const OLDEST: Release = Release::of(1, 20);
    /// From here on, an event told by events.k8s.io/v1 stays what it is but for its series.
    pub const EVENTS_STAY: Release = Release::of(1, 21);
    /// From here on, service accounts have no token Secrets by themselves.
    pub const NO_TOKEN_SECRETS: Release = Release::of(1, 24);

    /// From here on, whoever runs something in a pod, or reaches into it, by a GET (a WebSocket) must also have `create`.
    pub const GET_NEEDS_CREATE: Release = Release::of(1, 35);
    /// From here on, who asks for a token and says of which service account by its UID gets none of another.
    pub const TOKENS_OF_A_UID: Release = Release::of(1, 34);

    /// `major.minor`.
    pub const fn of(major: u16, minor: u16) -> Release {
        Release { major, minor }
    }

    /// The release of [`crate::KUBERNETES_VERSION`].
    pub fn current() -> Release {
        numbers(crate::KUBERNETES_VERSION).unwrap_or(Release::OLDEST)
    }

    /// The major number.
    pub fn major(self) -> u16 {
        self.major
    }

    /// The minor number.
    pub fn minor(self) -> u16 {
        self.minor
    }

    /// The full version, e.g. `v1.20.0`.
    pub fn version(self) -> String {
        if self == Release::current() { crate::KUBERNETES_VERSION.to_owned() } else { format!("v{self}.0") }
    }
}

impl Default for Release {
    fn default() -> Self {
        Release::current()
    }
}

impl fmt::Display for Release {
    /// `1.20`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn numbers(text: &str) -> Option<Release> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
    let release = Release::of(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (parts.all(|p| p.parse::<u16>().is_ok())).then_some(release)
}

impl FromStr for Release {
    type Err = String;

    /// Reads `1.20`, `v1.20` or `v1.20.2`.
    fn from_str(text: &str) -> Result<Release, String> {
        let release = numbers(text).ok_or_else(|| format!("{text:?} is no release; give one like 1.20"))?;
        let range = Release::OLDEST..=Release::current();
        if !range.contains(&release) {
            return Err(format!(
                "release {release} cannot be emulated; from {} to {} can",
                range.start(),
                range.end()
            ));
        }
        Ok(release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_compared() {
        let old: Release = "v1.20.2".parse().unwrap();
        assert_eq!((old, old.version().as_str()), (Release::OLDEST, "v1.20.0"));
        assert!(old < Release::NO_TOKEN_SECRETS && Release::NO_TOKEN_SECRETS < Release::current());
        assert_eq!(Release::current().version(), crate::KUBERNETES_VERSION);
        for bad in ["", "1", "x.y", "1.19", "1.99", "1.20.x"] {
            assert!(bad.parse::<Release>().is_err(), "{bad}");
        }
    }
}
