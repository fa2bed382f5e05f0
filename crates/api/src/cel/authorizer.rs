//! The variable `authorizer`: expressions ask it what the user of a request, or a service account, may do.

use std::rc::Rc;

use super::value::{Val, no_overload};
use crate::access::{Ask, Decision};

/// Who decides; given by whoever evaluates an expression.
pub trait Authorizer: std::fmt::Debug {
    /// What the request is about: API group, resource, subresource, namespace, name.
    fn resource(&self) -> [&str; 5];
    /// Whether what is asked is allowed: to a service account, by namespace and name, or to the request's user.
    fn decide(&self, account: Option<(&str, &str)>, ask: &Ask<'_>) -> Decision;
}

/// What a check costs: more than everything that only computes.
pub(super) const CHECK_COST: u64 = 350_000;

/// The functions on values of these types.
pub(super) const FUNCTIONS: [&str; 14] = [
    "path",
    "group",
    "serviceAccount",
    "resource",
    "subresource",
    "namespace",
    "name",
    "fieldSelector",
    "labelSelector",
    "check",
    "allowed",
    "reason",
    "error",
    "errored",
];

#[derive(Debug, Clone, Default)]
struct Target {
    path: String,
    /// Group, resource, subresource, namespace, name.
    resource: [String; 5],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Whole,
    Path,
    Group,
    Resource,
}

/// A question on its way, or its answer.
#[derive(Debug, Clone)]
pub(crate) enum Auth<'a> {
    Question(Question<'a>),
    Decision(Decision),
}

/// A question on its way.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    by: &'a dyn Authorizer,
    account: Option<(String, String)>,
    stage: Stage,
    target: Target,
}

impl<'a> Auth<'a> {
    /// The variable itself.
    pub fn of(by: &'a dyn Authorizer) -> Val<'a> {
        let question = Question { by, account: None, stage: Stage::Whole, target: Target::default() };
        Val::Auth(Rc::new(Auth::Question(question)))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Auth::Question(q) => match q.stage {
                Stage::Whole => "kubernetes.authorization.Authorizer",
                Stage::Path => "kubernetes.authorization.PathCheck",
                Stage::Group => "kubernetes.authorization.GroupCheck",
                Stage::Resource => "kubernetes.authorization.ResourceCheck",
            },
            Auth::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// How many bytes its parts have: what it takes to make another of it.
    pub fn len(&self) -> usize {
        match self {
            Auth::Question(q) => {
                q.target.path.len() + q.target.resource.iter().map(String::len).sum::<usize>()
            }
            Auth::Decision(_) => 0,
        }
    }

    /// `authorizer.requestResource`
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Auth::Question(q) if q.stage == Stage::Whole && name == "requestResource" => {
                let resource = q.by.resource().map(str::to_owned);
                let target = Target { resource, ..Target::default() };
                Some(q.with(Stage::Resource, target))
            }
            _ => None,
        }
    }

    /// Calls a function.
    pub fn call(&self, name: &str, args: &[Val<'a>]) -> Result<Val<'a>, String> {
        let texts: Vec<&str> = args.iter().filter_map(Val::as_text).collect();
        if texts.len() != args.len() {
            return Err(no_overload(name));
        }
        match self {
            Auth::Decision(answer) => match (name, &texts[..]) {
                ("allowed", []) => Ok(Val::Bool(answer.allowed())),
                ("reason", []) => Ok(Val::text(answer.reason().to_owned())),
                ("error", []) => Ok(Val::text("")),
                ("errored", []) => Ok(Val::Bool(false)),
                _ => Err(no_overload(name)),
            },
            Auth::Question(q) => q.call(name, &texts),
        }
    }
}

impl<'a> Question<'a> {
    fn with(&self, stage: Stage, target: Target) -> Val<'a> {
        Val::Auth(Rc::new(Auth::Question(Question { stage, target, ..self.clone() })))
    }

    /// The same with one part of the resource set.
    fn set(&self, part: usize, to: &str) -> Val<'a> {
        let mut target = self.target.clone();
        target.resource[part] = to.to_owned();
        self.with(Stage::Resource, target)
    }

    fn call(&self, name: &str, args: &[&str]) -> Result<Val<'a>, String> {
        Ok(match (self.stage, name, args) {
            (Stage::Whole, "path", [path]) => {
                if path.is_empty() {
                    return Err("path must not be empty".into());
                }
                self.with(Stage::Path, Target { path: (*path).to_owned(), ..Target::default() })
            }
            (Stage::Whole, "group", [group]) => {
                let mut target = Target::default();
                target.resource[0] = (*group).to_owned();
                self.with(Stage::Group, target)
            }
            (Stage::Whole, "serviceAccount", [namespace, account]) => {
                if !crate::validate::dns_label(namespace).is_empty() {
                    return Err(format!("Invalid service account namespace: {namespace}"));
                }
                if !crate::validate::dns_subdomain(account).is_empty() {
                    return Err(format!("Invalid service account name: {account}"));
                }
                let account = Some(((*namespace).to_owned(), (*account).to_owned()));
                Val::Auth(Rc::new(Auth::Question(Question { account, ..self.clone() })))
            }
            (Stage::Group, "resource", [resource]) => self.set(1, resource),
            (Stage::Resource, "subresource", [sub]) => self.set(2, sub),
            (Stage::Resource, "namespace", [namespace]) => self.set(3, namespace),
            (Stage::Resource, "name", [name]) => self.set(4, name),
            // Rules know no selectors: what is allowed with one is allowed without.
            (Stage::Resource, "fieldSelector" | "labelSelector", [_]) => {
                self.with(Stage::Resource, self.target.clone())
            }
            (Stage::Path | Stage::Resource, "check", [verb]) => {
                let [group, resource, subresource, namespace, name] = &self.target.resource;
                let account = self.account.as_ref().map(|(ns, name)| (ns.as_str(), name.as_str()));
                let path = self.target.path.as_str();
                let ask = Ask { verb, path, group, resource, subresource, namespace, name };
                Val::Auth(Rc::new(Auth::Decision(self.by.decide(account, &ask))))
            }
            _ => return Err(no_overload(name)),
        })
    }
}
