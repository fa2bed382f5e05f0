//! The `tag` option: a Go template over what is known of the container.

use std::collections::BTreeMap;

use gotmpl::{MissingKey, Template, Value};

use super::Asked;
use crate::LoggedContainer;

/// The name that Docker's daemon gives itself.
const DAEMON: &str = "docker";

/// How often all loops of a template may go round together: a tag is a word, and the library would let it be millions.
const MAX_ROUNDS: u64 = 10_000;

/// What is wrong with a template.
pub(super) fn check(template: &str) -> Result<(), String> {
    let container = LoggedContainer::default();
    let labels = BTreeMap::new();
    parse(template)?;
    let asked = Asked { container: &container, labels: &labels, env: &[], folder: "".as_ref() };
    // Fields that do not exist are found only by running it; what runs on nothing at all may fail for want of a value.
    match render(template, &asked) {
        Err(e) if e.contains("can't evaluate field") || e.contains("no entry for key") => Err(e),
        _ => Ok(()),
    }
}

fn parse(template: &str) -> Result<Template, String> {
    let text = |args: &[Value], n: usize| args.get(n).map(ToString::to_string).unwrap_or_default();
    let number = |args: &[Value], n: usize| args.get(n).and_then(Value::as_int).unwrap_or(0).max(0) as usize;
    Template::new("log-tag")
        .missing_key(MissingKey::Error)
        .max_range_iters(MAX_ROUNDS)
        .func("json", move |args| {
            let text = args.first().map(ToString::to_string).unwrap_or_default();
            Ok(Value::from(serde_json::Value::from(text).to_string()))
        })
        .func("lower", move |args| Ok(Value::from(text(args, 0).to_lowercase())))
        .func("upper", move |args| Ok(Value::from(text(args, 0).to_uppercase())))
        .func("title", move |args| {
            let mut start = true;
            let source = text(args, 0);
            let titled = source.chars().map(|c| {
                let c = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
                start = !c.is_alphanumeric();
                c
            });
            Ok(Value::from(titled.collect::<String>()))
        })
        .func("split", move |args| {
            let (text, by) = (text(args, 0), text(args, 1));
            Ok(Value::from(text.split(by.as_str()).map(Value::from).collect::<Vec<_>>()))
        })
        .func("join", move |args| {
            let Some(Value::List(list)) = args.first() else { return Ok(Value::from("")) };
            let parts: Vec<String> = list.iter().map(ToString::to_string).collect();
            Ok(Value::from(parts.join(&text(args, 1))))
        })
        .func("pad", move |args| {
            let source = text(args, 0);
            if source.is_empty() {
                return Ok(Value::from(source));
            }
            // More than a line could hold is an accident.
            let spaces = |n: usize| " ".repeat(number(args, n).min(4096));
            Ok(Value::from(format!("{}{source}{}", spaces(1), spaces(2))))
        })
        .func("truncate", move |args| {
            Ok(Value::from(text(args, 0).chars().take(number(args, 1)).collect::<String>()))
        })
        .parse(template)
        .map_err(|e| format!("template: log-tag: {e}"))
}

/// The tag of one container.
pub(super) fn render(template: &str, asked: &Asked<'_>) -> Result<String, String> {
    if !template.contains("{{") {
        return Ok(template.to_owned());
    }
    let c = asked.container;
    let short = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect::<String>();
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let map = |map: &BTreeMap<String, String>| {
        Value::from(map.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect::<BTreeMap<_, _>>())
    };
    let data: BTreeMap<String, Value> = [
        ("ID", Value::from(short(&c.id))),
        ("FullID", Value::from(c.id.as_str())),
        ("Name", Value::from(c.name.as_str())),
        ("ImageID", Value::from(short(&c.image_id))),
        ("ImageFullID", Value::from(c.image_id.as_str())),
        ("ImageName", Value::from(c.image_name.as_str())),
        ("Command", Value::from(c.command.as_str())),
        ("Hostname", Value::from(hostname)),
        ("DaemonName", Value::from(DAEMON)),
        ("ContainerID", Value::from(c.id.as_str())),
        ("ContainerName", Value::from(format!("/{}", c.name))),
        ("ContainerImageID", Value::from(c.image_id.as_str())),
        ("ContainerImageName", Value::from(c.image_name.as_str())),
        ("ContainerLabels", map(asked.labels)),
        ("ContainerEnv", Value::from(asked.env.iter().map(|e| Value::from(e.as_str())).collect::<Vec<_>>())),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    parse(template)?.execute_to_string(&Value::from(data)).map_err(|e| format!("template: log-tag: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let container = LoggedContainer {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image_id: "sha256:fedcba98765432100".into(),
            image_name: "app:1".into(),
            command: "sh -c true".into(),
            ..Default::default()
        };
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let asked = Asked { container: &container, labels: &labels, env: &[], folder: "".as_ref() };
        for (template, want) in [
            ("plain", "plain"),
            ("{{.ID}}", "0123456789ab"),
            ("{{.DaemonName}}/{{.ImageName}}/{{.Name}}/{{.FullID}}", "docker/app:1/web/0123456789abcdef"),
            ("{{.ImageID}} {{.Command}}", "fedcba987654 sh -c true"),
            ("{{upper .Name}}{{if .Name}}!{{end}}", "WEB!"),
            ("{{truncate .FullID 3}}", "012"),
            ("{{index .ContainerLabels \"team\"}}", "a"),
        ] {
            assert_eq!(render(template, &asked).unwrap(), want, "{template}");
        }
        assert!(render("{{range 100}}{{range 1000}}{{end}}{{end}}", &asked).is_err());
        assert!(check("{{.Nme}}").is_err());
        assert!(check("{{.Name").is_err());
        check("{{.Name}}/{{index .ContainerLabels \"team\"}}").unwrap();
    }
}
