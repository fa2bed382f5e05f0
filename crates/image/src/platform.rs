//! Platforms, and which image may be given to whom by Docker's rules (those of containerd's `platforms`).
//!
//! There are two of them. What is run or built on is asked for [loosely](Platform::rank): an older variant of the
//! processor does. What is looked at, copied or removed is [exactly](Platform::is) what was asked for.

use crate::config::ImageConfig;

/// An operating system and processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v8`, or empty.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = crate::config::host_platform();
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// Parses `linux/arm64/v8`, `linux/arm64`, `arm64` or `linux`.
    pub fn parse(text: &str) -> crate::Result<Self> {
        let host = Self::host();
        let parts: Vec<&str> = text.split('/').collect();
        let bad = || {
            crate::Error::Invalid(format!("\"{text}\": invalid platform: specify os/architecture[/variant]"))
        };
        if parts.iter().any(|p| {
            p.is_empty() || !p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        }) {
            return Err(bad());
        }
        let of = |os: &str, architecture: &str, variant: &str| {
            let (architecture, variant) = match (architecture, variant) {
                ("x86_64" | "x86-64", v) => ("amd64", v),
                ("aarch64", v) => ("arm64", v),
                ("i386", _) => ("386", ""),
                ("armhf", _) => ("arm", "v7"),
                ("armel", _) => ("arm", "v6"),
                other => other,
            };
            Self { os: os.into(), architecture: architecture.into(), variant: variant.into() }
        };
        match parts.as_slice() {
            ["linux" | "windows" | "darwin" | "freebsd"] => Ok(Self { os: parts[0].into(), ..host }),
            [a] => Ok(of(&host.os, a, "")),
            [os, a] => Ok(of(os, a, "")),
            [os, a, v] => Ok(of(os, a, v)),
            _ => Err(bad()),
        }
    }

    /// The same platform by the name that all its names have in common.
    fn normal(&self) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (architecture, variant) = (lower(&self.architecture), lower(&self.variant));
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("arm64" | "aarch64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("arm64" | "aarch64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", v) => ("arm64", v),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        let os = if self.os.is_empty() { "linux".into() } else { lower(&self.os) };
        Self { os, architecture: architecture.into(), variant: variant.into() }
    }

    /// Whether both are the same platform, however they are written.
    pub fn is(&self, other: &Self) -> bool {
        self.normal() == other.normal()
    }

    /// How well what is for `other` does where `self` is wanted: 0 is best, none not at all. Besides the platform itself
    /// older variants of its processor do, and what that runs beside them.
    pub fn rank(&self, other: &Self) -> Option<usize> {
        let (wanted, other) = (self.normal(), other.normal());
        if wanted.os != other.os {
            return None;
        }
        let wanted = runs(&wanted.architecture, &wanted.variant);
        wanted.iter().position(|(a, v)| *a == other.architecture && *v == other.variant)
    }
}

/// What a processor runs, best first.
fn runs(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < 100);
    let version = variant.strip_prefix('v').and_then(number);
    let one = |a: &str, v: &str| (a.to_owned(), v.to_owned());
    let older =
        |a: &str, from: u32, to: u32| (to..from).rev().map(|n| one(a, &format!("v{n}"))).collect::<Vec<_>>();
    let mut all = vec![one(architecture, variant)];
    match (architecture, version) {
        ("amd64", _) => {
            if let Some(n) = version {
                all.extend(older("amd64", n, 2));
            }
            if !variant.is_empty() {
                all.push(one("amd64", ""));
            }
            all.push(one("386", ""));
        }
        ("arm", Some(n)) => all.extend(older("arm", n, 5)),
        ("arm64", _) => {
            let (major, minor) = match variant {
                "" => (8, 0),
                v => {
                    let v = v.strip_prefix('v').unwrap_or_default();
                    let (major, minor) = v.split_once('.').unwrap_or((v, "0"));
                    match (number(major), number(minor)) {
                        (Some(major @ (8 | 9)), Some(minor @ 0..=9)) => (major, minor),
                        // Not one of them: itself alone.
                        _ => return all,
                    }
                }
            };
            let named = |major: u32, minor: u32| match (major, minor) {
                (8, 0) => String::new(),
                (_, 0) => format!("v{major}"),
                _ => format!("v{major}.{minor}"),
            };
            let mut below: Vec<(u32, u32)> = (0..minor).rev().map(|n| (major, n)).collect();
            if major == 9 {
                // v9.N has what v8.(N+5) has, of which there is no later one than v8.9.
                below.extend((0..=(minor + 5).min(9)).rev().map(|n| (8, n)));
            }
            all.extend(below.into_iter().map(|(major, minor)| one("arm64", &named(major, minor))));
            all.extend(older("arm", 9, 5));
        }
        _ => {}
    }
    all
}

impl ImageConfig {
    /// The platform that the image says it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Whether the image may be run or built on where `wanted` is asked for. One that names no variant is taken for any:
    /// many builders leave it out.
    pub fn fits(&self, wanted: &Platform) -> bool {
        let own = self.platform();
        wanted.rank(&own).is_some()
            || own.variant.is_empty() && {
                let (own, wanted) = (own.normal(), wanted.normal());
                (own.os, own.architecture) == (wanted.os, wanted.architecture)
            }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn which_runs_where() {
        // Wanted, what there is, and how well that does.
        for (wanted, other, rank) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v1", Some(0)),
            ("linux/amd64", "linux/386", Some(1)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/386", "linux/amd64", None),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("linux/arm", "linux/arm/v6", Some(1)),
            ("linux/arm", "linux/arm/v8", None),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v6", "linux/arm/v5", Some(1)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64", "linux/arm/v7", Some(2)),
            ("linux/arm64", "linux/arm64/v8.1", None),
            ("linux/arm64/v8.2", "linux/arm64/v8.1", Some(1)),
            ("linux/arm64/v9", "linux/arm64/v8.5", Some(1)),
            ("linux/arm64/v9", "linux/arm64/v8.6", None),
            ("linux/arm64/v9", "linux/arm64", Some(6)),
            ("linux/arm64/x", "linux/arm64", None),
            ("windows/amd64", "linux/amd64", None),
            ("linux/riscv64", "linux/riscv64", Some(0)),
        ] {
            assert_eq!(p(wanted).rank(&p(other)), rank, "{other} for {wanted}");
        }
        let is = |a: &str, b: &str| p(a).is(&p(b));
        assert!(
            is("linux/arm", "linux/arm/7")
                && is("linux/arm64", "linux/arm64/v8")
                && is("Linux/AMD64", "amd64")
        );
        assert!(!is("linux/arm", "linux/arm/v6") && !is("linux/amd64", "linux/386"));
        assert!(is("linux/armel", "linux/arm/v6") && is("armhf", "arm"));
        let config = |architecture: &str, variant: &str| ImageConfig {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..ImageConfig::default()
        };
        assert!(config("arm", "").fits(&p("linux/arm/v6")), "it does not say for which");
        assert!(!config("arm", "v7").fits(&p("linux/arm/v6")));
        assert!(!config("ppc64le", "").fits(&p("linux/arm/v6")));
    }
}
