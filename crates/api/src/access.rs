//! May somebody do something? The question without who asks it, and the answer: what authorization decides, and what CEL
//! expressions can ask of it.

/// A question.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The path; empty if the question is about a resource.
    pub path: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// Nothing says yes; why not, if that is known.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Why, if that is known.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}
