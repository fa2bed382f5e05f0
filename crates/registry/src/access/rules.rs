//! Rights by repository: one rule a line, `WHO REPOSITORIES ACTIONS`.

use crate::error::{Error, Result};

/// What can be done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

impl Action {
    /// The name in rules, scopes and tokens.
    pub fn name(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "delete",
        }
    }

    /// What a name means; `*` is all, an unknown one nothing.
    pub(super) fn parse(name: &str) -> Vec<Action> {
        let all = [Action::Pull, Action::Push, Action::Delete];
        if name == "*" { all.into() } else { all.into_iter().filter(|a| a.name() == name).collect() }
    }
}

#[derive(Debug)]
struct Rule {
    who: String,
    repositories: String,
    actions: Vec<Action>,
}

/// The rules of a registry. What no rule grants is refused.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads rules: `*` is anybody, `@` anybody with a password, else a user's name; in a pattern of repositories `*`
    /// stands for one component and `**` for any number of them; actions are `pull`, `push`, `delete`, joined by commas.
    pub fn parse(text: &str) -> Result<Rules> {
        let mut rules = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bad = |why: &str| {
                Error::Configuration(format!(
                    "rules, line {}: {why}: a rule is WHO REPOSITORIES ACTIONS, for example `ann team/** pull,push`",
                    i + 1
                ))
            };
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [who, repositories, actions] = parts.as_slice() else {
                return Err(bad("not three words"));
            };
            let mut granted = Vec::new();
            for name in actions.split(',') {
                let found = Action::parse(name);
                if found.is_empty() {
                    return Err(bad(&format!("unknown action {name:?}")));
                }
                granted.extend(found);
            }
            let (who, repositories) = (who.to_string(), repositories.to_string());
            rules.push(Rule { who, repositories, actions: granted });
        }
        Ok(Rules(rules))
    }

    /// Whether a rule grants this; no user is nobody in particular.
    pub fn allow(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        let parts: Vec<&str> = repository.split('/').collect();
        self.0.iter().any(|r| {
            let who = match r.who.as_str() {
                "*" => true,
                "@" => user.is_some(),
                name => user == Some(name),
            };
            let pattern: Vec<&str> = r.repositories.split('/').collect();
            who && r.actions.contains(&action) && fits(&pattern, &parts)
        })
    }
}

fn fits(pattern: &[&str], parts: &[&str]) -> bool {
    let (mut wanted, mut at) = (0, 0);
    // Behind the last `**`, and where what follows it has been looked for: those before need not be tried again.
    let mut last = None;
    while let Some(part) = parts.get(at) {
        match pattern.get(wanted) {
            Some(&"**") => {
                wanted += 1;
                last = Some((wanted, at));
            }
            Some(p) if *p == "*" || p == part => {
                wanted += 1;
                at += 1;
            }
            _ => {
                let Some((behind, from)) = last else { return false };
                (wanted, at) = (behind, from + 1);
                last = Some((behind, from + 1));
            }
        }
    }
    pattern.iter().skip(wanted).all(|p| *p == "**")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_what_is_written_and_nothing_else() {
        let rules = Rules::parse(
            "# who what\n* public/** pull\n@ shared/* pull,push\nann team/**/app *  # all\nroot ** pull,push,delete\n",
        )
        .unwrap();
        use Action::{Delete, Pull, Push};
        for (user, repository, action, want) in [
            (None, "public/a/b", Pull, true),
            (None, "public", Pull, true),
            (None, "public/a", Push, false),
            (None, "shared/a", Pull, false),
            (Some("bob"), "shared/a", Push, true),
            (Some("bob"), "shared/a/b", Push, false),
            (Some("bob"), "team/app", Pull, false),
            (Some("ann"), "team/app", Delete, true),
            (Some("ann"), "team/x/y/app", Push, true),
            (Some("ann"), "team/x/y", Push, false),
            (Some("root"), "anything/at/all", Delete, true),
        ] {
            assert_eq!(rules.allow(user, repository, action), want, "{user:?} {repository} {action:?}");
        }
        // However often a pattern may begin anywhere.
        let rules = Rules::parse(&format!("eve {}b pull", "**/a/".repeat(20))).unwrap();
        for (last, want) in [("b", true), ("c", false)] {
            assert_eq!(rules.allow(Some("eve"), &format!("{}{last}", "a/".repeat(80)), Pull), want);
        }
        for bad in ["ann team", "ann team fly", "ann team pull,"] {
            assert!(Rules::parse(bad).unwrap_err().to_string().contains("line 1"), "{bad}");
        }
    }
}
