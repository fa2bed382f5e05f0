//! What instructions say about how an image runs. Pure: from a line and a lookup of variables to a change of `Config`.

use image::{Config, Empty, Healthcheck};

use crate::parse::Line;
use crate::words::{self, Lookup};

/// The shell of shell-form instructions where `SHELL` says nothing.
pub(crate) const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The most variables that an image may set, far beyond what the kernel lets a process have.
const VARIABLES: usize = 20_000;

/// The most ports that one instruction may spell out: each of each protocol, and the same again.
const PORTS: usize = 6 << 16;

/// Arguments in either form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

impl Command {
    /// The exec form is a JSON array of strings; everything else is for the shell.
    pub fn parse(arguments: &str) -> Self {
        match serde_json::from_str::<Vec<String>>(arguments) {
            Ok(list) if arguments.trim_start().starts_with('[') => Command::Exec(list),
            _ => Command::Shell(arguments.to_string()),
        }
    }

    /// The whole argument list.
    pub fn argv(self, config: &Config) -> Vec<String> {
        match self {
            Command::Exec(list) => list,
            Command::Shell(line) => {
                let mut argv = shell_of(config);
                argv.push(line);
                argv
            }
        }
    }
}

/// The configured shell.
pub(crate) fn shell_of(config: &Config) -> Vec<String> {
    match &config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => SHELL.iter().map(ToString::to_string).collect(),
    }
}

/// The flags that each instruction knows.
fn known_flags(keyword: &str) -> &'static [&'static str] {
    match keyword {
        "FROM" => &["platform"],
        "COPY" => &["from", "chown", "chmod", "link", "exclude", "parents"],
        "ADD" => &["chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"],
        "RUN" => &["mount", "network", "security"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    }
}

/// Checks what can be known without variables, so that a wrong line is reported before the first step.
pub(crate) fn check(line: &Line, escape: char) -> Result<(), String> {
    let mut seen = Vec::new();
    for (name, _) in &line.flags {
        if !known_flags(line.keyword).contains(&name.as_str()) {
            return Err(format!("unknown flag: --{name}"));
        }
        let several = matches!(name.as_str(), "mount" | "exclude");
        if !several && seen.contains(&name) {
            return Err(format!("duplicate flag specified: --{name}"));
        }
        if !several {
            seen.push(name);
        }
    }
    if matches!(line.keyword, "ADD" | "CMD" | "COPY" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME")
        && serde_json::from_str::<Vec<serde_json::Value>>(&line.arguments)
            .is_ok_and(|list| !list.iter().all(serde_json::Value::is_string))
    {
        return Err("when using JSON array syntax, arrays must be comprised of strings only".into());
    }
    match line.keyword {
        "ENV" | "LABEL" => pairs(line.keyword, &line.arguments, escape).map(|_| ()),
        "HEALTHCHECK" => healthcheck(line).map(|_| ()),
        "ARG" if words::split(&line.arguments, escape).iter().any(|w| w.starts_with('=')) => {
            Err("ARG names can not be blank".into())
        }
        "SHELL" => shell(&line.arguments).map(|_| ()),
        "ADD" | "COPY" => {
            let (sources, dest) = sources(line, escape)?;
            let count = sources.len() + line.heredocs.len();
            if count > 1 && !dest.ends_with('/') && !dest.contains('$') && dest != "." {
                return Err(format!(
                    "When using {} with more than one source file, the destination must be a directory and end with a /",
                    line.keyword
                ));
            }
            Ok(())
        }
        "ONBUILD" => {
            let trigger =
                crate::parse::instruction(&line.arguments, line.number, escape).map_err(|e| match e {
                    crate::Error::Parse { message, .. } => message,
                    other => other.to_string(),
                })?;
            match trigger.keyword {
                "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
                k @ ("FROM" | "MAINTAINER") => Err(format!("{k} isn't allowed as an ONBUILD trigger")),
                _ => check(&trigger, escape),
            }
        }
        "MAINTAINER" => Ok(()),
        "USER" | "STOPSIGNAL" | "WORKDIR"
            if line.keyword != "WORKDIR" && words::split(&line.arguments, escape).len() != 1 =>
        {
            Err(format!("{} requires exactly one argument", line.keyword))
        }
        _ => Ok(()),
    }
}

/// Sources (here-documents left out) and destination of `ADD` and `COPY`, not expanded.
pub(crate) fn sources(line: &Line, escape: char) -> Result<(Vec<String>, String), String> {
    let mut all = match Command::parse(&line.arguments) {
        Command::Exec(list) => list,
        Command::Shell(text) => words::split(&text, escape),
    };
    let too_few = || {
        format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            line.keyword
        )
    };
    let dest = all.pop().ok_or_else(too_few)?;
    if crate::parse::heredoc(&dest).is_some() && line.heredocs.iter().any(|h| dest.contains(&h.name)) {
        return Err(format!("{} cannot accept a heredoc as a destination", line.keyword));
    }
    all.retain(|s| line.heredocs.is_empty() || crate::parse::heredoc(s).is_none());
    if all.is_empty() && line.heredocs.is_empty() {
        return Err(too_few());
    }
    Ok((all, dest))
}

/// `name=value` pairs of `ENV` and `LABEL`, or their old form `name value`; quotes and variables as they are.
pub(crate) fn pairs(keyword: &str, arguments: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = words::split(arguments, escape);
    let Some(first) = words.first() else { return Err(format!("{keyword} requires at least one argument")) };
    if !first.contains('=') {
        let rest = arguments.trim_start()[first.len()..].trim();
        if rest.is_empty() {
            return Err(format!("{keyword} must have two arguments"));
        }
        return Ok(vec![(first.clone(), rest.to_string())]);
    }
    words
        .into_iter()
        .map(|w| match w.split_once('=') {
            Some(("", _)) => Err(format!("{keyword} names can not be blank")),
            Some((name, value)) => Ok((name.to_string(), value.to_string())),
            None => Err(format!("Syntax error - can't find = in {w:?}. Must be of the form: name=value")),
        })
        .collect()
}

fn shell(arguments: &str) -> Result<Vec<String>, String> {
    match Command::parse(arguments) {
        Command::Exec(list) if list.is_empty() => Err("SHELL requires at least one argument".into()),
        Command::Exec(list) => Ok(list),
        Command::Shell(text) => Err(format!("SHELL requires the arguments to be in JSON form (at {text:?})")),
    }
}

fn healthcheck(line: &Line) -> Result<Healthcheck, String> {
    let (kind, rest) = line.arguments.split_once(char::is_whitespace).unwrap_or((&line.arguments, ""));
    let rest = rest.trim();
    let mut h = Healthcheck::default();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if !rest.is_empty() => return Err("HEALTHCHECK NONE takes no arguments".into()),
        "NONE" => h.test = vec!["NONE".into()],
        "CMD" if rest.is_empty() => return Err("Missing command after HEALTHCHECK CMD".into()),
        "CMD" => {
            h.test = match Command::parse(rest) {
                Command::Exec(list) => [vec!["CMD".to_string()], list].concat(),
                // By the image's shell, whichever that is when it is run.
                Command::Shell(text) => vec!["CMD-SHELL".into(), text],
            };
        }
        other => return Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
    for (name, value) in &line.flags {
        let value = value.as_deref().unwrap_or_default();
        let time = || match duration(value) {
            Some(0) => Ok(0),
            Some(n) if n < 1_000_000 => Err(format!("Interval {name:?} cannot be less than 1ms")),
            Some(n) => Ok(n),
            None => Err(format!("time: invalid duration {value:?}")),
        };
        match name.as_str() {
            "interval" => h.interval = time()?,
            "timeout" => h.timeout = time()?,
            "start-period" => h.start_period = time()?,
            "start-interval" => h.start_interval = time()?,
            _ => {
                h.retries =
                    value.parse().map_err(|_| format!("--retries must be a number, not {value:?}"))?;
                if h.retries < 0 {
                    return Err(format!("--retries cannot be negative ({value})"));
                }
            }
        }
    }
    Ok(h)
}

/// Go's `time.ParseDuration`, in nanoseconds, for durations that are not negative.
pub(crate) fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let n: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += n * unit;
        rest = &rest[unit_end..];
    }
    (total < i64::MAX as f64).then_some(total as i64)
}

/// The ports that one word of `EXPOSE` (or `--expose`) means: `80`, `53/udp`, `8000-8010/tcp`.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("Invalid proto: {protocol}"));
    }
    // A host's part says nothing in an image.
    let numbers = numbers.rsplit(':').next().unwrap_or(numbers);
    let (low, high) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |n: &str| n.parse::<u16>().map_err(|_| format!("Invalid containerPort: {numbers}"));
    let (low, high) = (number(low)?, number(high)?);
    if low > high {
        return Err(format!("Invalid range specified for port: {numbers}"));
    }
    Ok((low..=high).map(|n| format!("{n}/{protocol}")).collect())
}

/// Sets `name=value` in a list of variables, in place if it is there.
pub(crate) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// `["a" "b"]`, as Go's `%q` prints a list.
fn quoted(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" "))
}

/// Carries out an instruction that changes the configuration alone, and returns the text for the history.
/// `cmd_set` remembers whether this stage has set `CMD` itself.
pub(crate) fn apply(
    config: &mut Config,
    line: &Line,
    escape: char,
    lookup: &Lookup<'_>,
    cmd_set: &mut bool,
) -> Result<String, String> {
    let expand = |word: &str| {
        words::expand(word, escape, lookup).map_err(|e| format!("failed to process {word:?}: {e}"))
    };
    let arguments = line.arguments.as_str();
    Ok(match line.keyword {
        "ENV" => {
            let mut text = "ENV".to_string();
            for (name, value) in pairs("ENV", arguments, escape)? {
                let (name, value) = (expand(&name)?, expand(&value)?);
                if name.is_empty() {
                    return Err("ENV names can not be blank".into());
                }
                text.push_str(&format!(" {name}={value}"));
                set_env(&mut config.env, &name, &value);
                words::bounded(text.len())?;
                if config.env.len() > VARIABLES {
                    return Err(format!("more than {VARIABLES} environment variables"));
                }
            }
            text
        }
        "LABEL" => {
            let mut text = "LABEL".to_string();
            for (name, value) in pairs("LABEL", arguments, escape)? {
                let (name, value) = (expand(&name)?, expand(&value)?);
                text.push_str(&format!(" {name}={value}"));
                words::bounded(text.len())?;
                config.labels.insert(name, value);
            }
            text
        }
        "MAINTAINER" => format!("MAINTAINER {arguments}"),
        "EXPOSE" => {
            let (mut shown, mut count) = (Vec::new(), 0);
            for word in words::split(arguments, escape) {
                for word in words::expand_words(&word, escape, lookup)? {
                    let ports = ports(&word)?;
                    count += ports.len();
                    if count > PORTS {
                        return Err(format!("EXPOSE names more than {PORTS} ports"));
                    }
                    config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
                    shown.push(word);
                }
            }
            format!("EXPOSE {}", shown.join(" "))
        }
        "VOLUME" => {
            let list = match Command::parse(arguments) {
                Command::Exec(list) => list,
                Command::Shell(text) => words::split(&text, escape),
            };
            let (mut shown, mut bytes) = (Vec::new(), 0);
            for word in list {
                let path = expand(&word)?.trim().to_string();
                if path.is_empty() {
                    return Err("VOLUME specified can not be an empty string".into());
                }
                bytes += path.len();
                words::bounded(bytes)?;
                config.volumes.insert(path.clone(), Empty {});
                shown.push(path);
            }
            format!("VOLUME [{}]", shown.join(" "))
        }
        "USER" => {
            config.user = expand(arguments)?;
            format!("USER {}", config.user)
        }
        "STOPSIGNAL" => {
            let signal = expand(arguments)?;
            if !is_signal(&signal) {
                return Err(format!("Invalid signal: {signal}"));
            }
            config.stop_signal.clone_from(&signal);
            format!("STOPSIGNAL {signal}")
        }
        "WORKDIR" => {
            let path = expand(arguments)?;
            if path.is_empty() {
                return Err("cannot normalize nothing".into());
            }
            config.working_dir = absolute(&config.working_dir, &path);
            format!("WORKDIR {}", config.working_dir)
        }
        "HEALTHCHECK" => {
            let h = healthcheck(line)?;
            let text = format!("HEALTHCHECK {}", quoted(&h.test));
            config.healthcheck = Some(h);
            text
        }
        "SHELL" => {
            let list = shell(arguments)?;
            let text = format!("SHELL [{}]", list.join(" "));
            config.shell = Some(list);
            text
        }
        "CMD" => {
            let argv = command(arguments, config);
            *cmd_set = true;
            let text = format!("CMD {}", quoted(argv.as_deref().unwrap_or_default()));
            config.cmd = argv;
            text
        }
        "ENTRYPOINT" => {
            // An empty one takes the base's away.
            let argv = command(arguments, config).filter(|argv| !argv.is_empty());
            let text = format!("ENTRYPOINT {}", quoted(argv.as_deref().unwrap_or_default()));
            config.entrypoint = argv;
            if !*cmd_set {
                config.cmd = None;
            }
            text
        }
        "ONBUILD" => {
            let mut trigger = arguments.to_string();
            for heredoc in &line.heredocs {
                trigger.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            let text = format!("ONBUILD {trigger}");
            config.on_build.push(trigger);
            text
        }
        other => return Err(format!("{other} is not a valid change command")),
    })
}

fn command(arguments: &str, config: &Config) -> Option<Vec<String>> {
    match Command::parse(arguments) {
        Command::Exec(list) => Some(list),
        Command::Shell(text) if text.trim().is_empty() => None,
        shell => Some(shell.argv(config)),
    }
}

/// `path` seen from the folder `base`, cleaned.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    let joined = std::path::Path::new("/").join(base).join(path);
    image::archive::root::clean(&joined).to_string_lossy().into_owned()
}

fn is_signal(s: &str) -> bool {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(n) = s.parse::<u8>() {
        return (1..=64).contains(&n);
    }
    let upper = s.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || name.starts_with("RTMIN") || name.starts_with("RTMAX")
}

/// Applies the lines of `--change` (`docker import`, `docker commit`) to a configuration.
pub fn changes(config: &mut Config, lines: &[String]) -> crate::Result<()> {
    for text in lines {
        let line = crate::parse::instruction(text.trim(), 1, '\\').map_err(|e| match e {
            crate::Error::Parse { message, .. } => crate::Error::Invalid(message),
            other => other,
        })?;
        if matches!(line.keyword, "FROM" | "RUN" | "COPY" | "ADD" | "ARG" | "SHELL" | "MAINTAINER") {
            let name = line.keyword.to_ascii_lowercase();
            return Err(crate::Error::Invalid(format!("{name} is not a valid change command")));
        }
        check(&line, '\\').map_err(crate::Error::Invalid)?;
        let env = config.env.clone();
        let lookup = |name: &str| {
            env.iter().find_map(|e| e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
        };
        let mut cmd_set = true;
        apply(config, &line, '\\', &lookup, &mut cmd_set).map_err(crate::Error::Invalid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(lines: &[&str]) -> Result<Config, String> {
        let mut c = Config::default();
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        changes(&mut c, &lines).map(|()| c).map_err(|e| e.to_string())
    }

    #[test]
    fn changes_a_configuration() {
        let c = change(&[
            "CMD [\"sh\"]",
            "ENV A=1 B=\"x y\"",
            "ENV OLD form value",
            "env C=${A}2",
            "EXPOSE 80 53/udp 90-91",
            "VOLUME [\"/d1\",\"/d2\"]",
            "WORKDIR /a",
            "WORKDIR b/../c",
            "LABEL a=b \"c d\"=\"e f\"",
            "USER nobody",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
            "ENTRYPOINT /bin/cat",
            "ONBUILD COPY a b",
        ])
        .unwrap();
        assert_eq!(c.env, ["A=1", "B=x y", "OLD=form value", "C=12"]);
        assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        assert_eq!(c.working_dir, "/a/c");
        assert_eq!(c.labels["c d"], "e f");
        let h = c.healthcheck.unwrap();
        assert_eq!(
            (h.test, h.interval, h.retries),
            (vec!["CMD-SHELL".into(), "true".into()], 90_000_000_000, 2)
        );
        assert_eq!(c.entrypoint.unwrap(), ["/bin/sh", "-c", "/bin/cat"]);
        assert_eq!(change(&["ENTRYPOINT a", "ENTRYPOINT []"]).unwrap().entrypoint, None);
        assert_eq!(change(&["CMD a", "CMD []"]).unwrap().cmd.unwrap(), [""; 0]);
        assert_eq!(c.cmd.unwrap(), ["sh"]);
    }

    #[test]
    fn refuses() {
        for (line, want) in [
            ("RUN x", "run is not a valid change command"),
            ("FLY x", "unknown instruction: FLY"),
            ("ENV a", "ENV must have two arguments"),
            ("ENV a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
            ("EXPOSE x", "Invalid containerPort: x"),
            ("EXPOSE 1/x", "Invalid proto: x"),
            ("STOPSIGNAL nope", "Invalid signal: nope"),
            ("HEALTHCHECK FOO", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
            ("HEALTHCHECK --x=1 CMD a", "unknown flag: --x"),
            ("ONBUILD ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
            ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger"),
            ("CMD [\"a\", 1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ] {
            assert_eq!(change(&[line]).unwrap_err(), want, "{line}");
        }
        assert_eq!(
            (duration("5s"), duration("1.5h"), duration("x"), duration("5")),
            (Some(5_000_000_000), Some(5_400_000_000_000), None, None)
        );
    }
}
