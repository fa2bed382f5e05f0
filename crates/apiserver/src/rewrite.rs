//! Links in what is proxied: a page behind the proxy that says `/x` means its own server's `/x`, so the path of the proxy is
//! put before it.
//!
//! Pure: text in, text out. What is no well-formed tag is left as it is.

/// Attributes that hold URLs, by tag.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Where the proxied server is, for its clients and for us.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The path of the proxy, without a slash at its end.
    pub prefix: String,
    /// The names, with ports, under which the server may speak of itself.
    pub hosts: Vec<String>,
}

impl Place {
    /// The URL as clients must see it. Relative ones, and those of other servers, stay.
    pub(crate) fn url(&self, url: &str) -> String {
        let (host, path) = split(url);
        let ours = host.is_empty() || self.hosts.iter().any(|h| h == host);
        let within = |p: &str| p == self.prefix || p.starts_with(&format!("{}/", self.prefix));
        if !ours || !path.starts_with('/') {
            url.to_owned()
        } else if within(path) {
            path.to_owned()
        } else {
            format!("{}{path}", self.prefix)
        }
    }

    /// The page with its links changed.
    pub(crate) fn html(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + page.len() / 16);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("<!--") {
                let end = rest.find("-->").map_or(rest.len(), |e| e + 3);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let name = &rest[1..];
            let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
            let known = ATTRIBUTES.iter().find(|(tag, _)| tag.eq_ignore_ascii_case(&name[..end]));
            let (head, tail) = rest.split_at(1 + end);
            out.push_str(head);
            rest = match known {
                Some((_, attributes)) => self.tag(tail, attributes, &mut out),
                None => tail,
            };
        }
        out.push_str(rest);
        out
    }

    /// Copies the attributes of a tag up to its end, and says what follows.
    fn tag<'a>(&self, mut rest: &'a str, attributes: &[&str], out: &mut String) -> &'a str {
        loop {
            let start = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/').unwrap_or(rest.len());
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            if rest.is_empty() || rest.starts_with('>') || rest.starts_with('<') {
                return rest;
            }
            let end = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/'));
            // A quote or another stray character where a name belongs is passed over.
            let end = end.unwrap_or(rest.len()).max(rest.chars().next().map_or(1, char::len_utf8));
            let (name, after) = rest.split_at(end);
            out.push_str(name);
            let trimmed = after.trim_start();
            let Some(value) = trimmed.strip_prefix('=') else {
                rest = after;
                continue;
            };
            let value = value.trim_start();
            out.push_str(&after[..after.len() - value.len()]);
            let (quote, body) = match value.chars().next() {
                Some(q @ ('"' | '\'')) => (Some(q), &value[1..]),
                _ => (None, value),
            };
            let stop = |c: char| match quote {
                Some(q) => c == q,
                None => c.is_ascii_whitespace() || c == '>',
            };
            let length = body.find(stop).unwrap_or(body.len());
            let (url, after) = body.split_at(length);
            out.extend(quote);
            if attributes.iter().any(|a| a.eq_ignore_ascii_case(name)) {
                out.push_str(&self.url(url));
            } else {
                out.push_str(url);
            }
            rest = after;
            if let Some(q) = quote
                && let Some(after) = rest.strip_prefix(q)
            {
                out.push(q);
                rest = after;
            }
        }
    }
}

/// Host and the rest of a URL; the host is empty if there is none.
fn split(url: &str) -> (&str, &str) {
    let after = match url.split_once("://") {
        Some((scheme, after)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => after,
        _ => match url.strip_prefix("//") {
            Some(after) => after,
            None => return ("", url),
        },
    };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    after.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { prefix: "/api/v1/p/proxy".into(), hosts: vec!["10.0.0.1:80".into(), "server:6443".into()] }
    }

    #[test]
    fn urls() {
        for (url, want) in [
            ("/x", "/api/v1/p/proxy/x"),
            ("/x/?a=b#c", "/api/v1/p/proxy/x/?a=b#c"),
            ("x", "x"),
            ("http://10.0.0.1:80/x", "/api/v1/p/proxy/x"),
            ("https://elsewhere/x", "https://elsewhere/x"),
            ("//elsewhere/x", "//elsewhere/x"),
            ("/api/v1/p/proxy/x", "/api/v1/p/proxy/x"),
            ("/api/v1/p/proxyx", "/api/v1/p/proxy/api/v1/p/proxyx"),
            ("mailto:a@b", "mailto:a@b"),
            ("", ""),
        ] {
            assert_eq!(place().url(url), want, "{url}");
        }
    }

    #[test]
    fn pages() {
        for (page, want) in [
            ("<a href=\"/rewriteme\">test</a>", "<a href=\"/api/v1/p/proxy/rewriteme\">test</a>"),
            ("<A class=x HREF='/y'>/y</A>", "<A class=x HREF='/api/v1/p/proxy/y'>/y</A>"),
            ("<img alt='a>b' src=/i.png/>", "<img alt='a>b' src=/api/v1/p/proxy/i.png/>"),
            ("<p href=\"/x\">", "<p href=\"/x\">"),
            ("<!-- <a href=\"/x\"> -->", "<!-- <a href=\"/x\"> -->"),
            ("a < b && <a href", "a < b && <a href"),
            ("<a href = \"/x", "<a href = \"/api/v1/p/proxy/x"),
            ("<a \"=é href=/é>", "<a \"=é href=/api/v1/p/proxy/é>"),
        ] {
            assert_eq!(place().html(page), want);
        }
    }
}
