//! The route table: every path of the API that this engine serves, as data.
//!
//! In a pattern `{}` is one segment of the path and `{*}` one or more (image names have slashes).

use futures::future::BoxFuture;
use http::Method;
use percent_encoding::percent_decode_str;

use crate::Result;
use crate::body::Answer;
use crate::call::Call;
use crate::handlers::{
    archive, build, buildkit, containers, exec, images, networks, streams, system, volumes,
};

/// What serves a route.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Answer>>;

/// One line of the table.
pub(crate) struct Route {
    method: Method,
    pattern: &'static str,
    handler: Handler,
}

macro_rules! routes {
    ($($method:ident $pattern:literal => $handler:path,)*) => {
        &[$(Route { method: Method::$method, pattern: $pattern, handler: |call| Box::pin($handler(call)) }),*]
    };
}

/// The table. The first line that fits serves.
const TABLE: &[Route] = routes![
    GET "/_ping" => system::ping,
    HEAD "/_ping" => system::ping,
    GET "/info" => system::info,
    GET "/version" => system::version,
    GET "/events" => streams::events,
    GET "/system/df" => system::disk_usage,
    POST "/auth" => system::auth,

    GET "/containers/json" => containers::list,
    POST "/containers/create" => containers::create,
    POST "/containers/prune" => containers::prune,
    GET "/containers/{}/json" => containers::inspect,
    GET "/containers/{}/top" => containers::top,
    GET "/containers/{}/logs" => streams::logs,
    GET "/containers/{}/changes" => archive::changes,
    GET "/containers/{}/export" => archive::export,
    GET "/containers/{}/stats" => streams::stats,
    POST "/containers/{}/resize" => containers::resize,
    POST "/containers/{}/start" => containers::start,
    POST "/containers/{}/stop" => containers::stop,
    POST "/containers/{}/restart" => containers::restart,
    POST "/containers/{}/kill" => containers::kill,
    POST "/containers/{}/update" => containers::update,
    POST "/containers/{}/rename" => containers::rename,
    POST "/containers/{}/pause" => containers::pause,
    POST "/containers/{}/unpause" => containers::unpause,
    POST "/containers/{}/attach" => exec::attach,
    GET "/containers/{}/attach/ws" => exec::attach_websocket,
    POST "/containers/{}/wait" => streams::wait,
    DELETE "/containers/{}" => containers::remove,
    DELETE "/containers/{}/{}" => containers::remove_link,
    HEAD "/containers/{}/archive" => archive::stat,
    GET "/containers/{}/archive" => archive::get,
    PUT "/containers/{}/archive" => archive::put,
    POST "/containers/{}/exec" => exec::create,

    POST "/exec/{}/start" => exec::start,
    POST "/exec/{}/resize" => exec::resize,
    GET "/exec/{}/json" => exec::inspect,

    GET "/images/json" => images::list,
    POST "/images/create" => images::create,
    POST "/images/load" => images::load,
    POST "/images/prune" => images::prune,
    GET "/images/get" => images::save,
    GET "/images/search" => images::search,
    GET "/images/{*}/json" => images::inspect,
    GET "/images/{*}/history" => images::history,
    GET "/images/{*}/get" => images::save_one,
    POST "/images/{*}/push" => images::push,
    POST "/images/{*}/tag" => images::tag,
    DELETE "/images/{*}" => images::remove,
    GET "/distribution/{*}/json" => images::distribution,
    POST "/commit" => images::commit,
    POST "/build" => build::build,
    POST "/build/cancel" => build::cancel,
    POST "/build/prune" => build::prune,
    POST "/grpc" => buildkit::grpc,
    POST "/session" => buildkit::session,

    GET "/volumes" => volumes::list,
    POST "/volumes/create" => volumes::create,
    POST "/volumes/prune" => volumes::prune,
    GET "/volumes/{}" => volumes::inspect,
    DELETE "/volumes/{}" => volumes::remove,

    GET "/networks" => networks::list,
    POST "/networks/create" => networks::create,
    POST "/networks/prune" => networks::prune,
    GET "/networks/{}" => networks::inspect,
    DELETE "/networks/{}" => networks::remove,
    POST "/networks/{}/connect" => networks::connect,
    POST "/networks/{}/disconnect" => networks::disconnect,

    GET "/swarm" => system::no_swarm,
    GET "/swarm/unlockkey" => system::no_swarm,
    POST "/swarm/{}" => system::no_swarm,
    GET "/nodes" => system::no_swarm,
    GET "/nodes/{}" => system::no_swarm,
    DELETE "/nodes/{}" => system::no_swarm,
    POST "/nodes/{}/update" => system::no_swarm,
    GET "/services" => system::no_swarm,
    POST "/services/create" => system::no_swarm,
    GET "/services/{}" => system::no_swarm,
    DELETE "/services/{}" => system::no_swarm,
    POST "/services/{}/update" => system::no_swarm,
    GET "/services/{}/logs" => system::no_swarm,
    GET "/tasks" => system::no_swarm,
    GET "/tasks/{}" => system::no_swarm,
    GET "/tasks/{}/logs" => system::no_swarm,
    GET "/secrets" => system::no_swarm,
    POST "/secrets/create" => system::no_swarm,
    GET "/secrets/{}" => system::no_swarm,
    DELETE "/secrets/{}" => system::no_swarm,
    POST "/secrets/{}/update" => system::no_swarm,
    GET "/configs" => system::no_swarm,
    POST "/configs/create" => system::no_swarm,
    GET "/configs/{}" => system::no_swarm,
    DELETE "/configs/{}" => system::no_swarm,
    POST "/configs/{}/update" => system::no_swarm,
    PUT "/volumes/{}" => system::no_swarm,
    GET "/plugins" => system::no_plugins,
    GET "/plugins/privileges" => system::plugins_refused,
    POST "/plugins/pull" => system::plugins_refused,
    POST "/plugins/create" => system::plugins_refused,
    GET "/plugins/{*}/json" => system::no_such_plugin,
    POST "/plugins/{*}/{}" => system::no_such_plugin,
    DELETE "/plugins/{*}" => system::no_such_plugin,
];

/// Finds the handler of a path without its version, and what its placeholders stand for.
pub(crate) fn find(method: &Method, path: &str) -> Option<(Handler, Vec<String>)> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    TABLE.iter().filter(|r| r.method == *method).find_map(|r| Some((r.handler, fit(r.pattern, &segments)?)))
}

fn fit(pattern: &str, path: &[&str]) -> Option<Vec<String>> {
    let pattern: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
    let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|t| t.into_owned());
    let Some(greedy) = pattern.iter().position(|p| *p == "{*}") else {
        return plain(&pattern, path, &decode);
    };
    let after = pattern.len() - greedy - 1;
    let end = path.len().checked_sub(after).filter(|end| *end > greedy)?;
    let mut params = plain(&pattern[..greedy], &path[..greedy], &decode)?;
    params.push(decode(&path[greedy..end].join("/")).filter(|p| !p.is_empty())?);
    params.extend(plain(&pattern[greedy + 1..], &path[end..], &decode)?);
    Some(params)
}

fn plain(pattern: &[&str], path: &[&str], decode: &dyn Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    if pattern.len() != path.len() {
        return None;
    }
    let mut params = Vec::new();
    for (p, segment) in pattern.iter().zip(path) {
        match *p {
            "{}" if segment.is_empty() => return None,
            "{}" => params.push(decode(segment)?),
            literal if literal == *segment => {}
            _ => return None,
        }
    }
    Some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fits =
            |pattern, path: &str| fit(pattern, &path.trim_start_matches('/').split('/').collect::<Vec<_>>());
        assert_eq!(fits("/containers/{}/json", "/containers/a%20b/json").unwrap(), ["a b"]);
        assert_eq!(
            fits("/images/{*}/json", "/images/host:5000/me/app:1/json").unwrap(),
            ["host:5000/me/app:1"]
        );
        assert_eq!(fits("/images/{*}", "/images/app").unwrap(), ["app"]);
        assert!(fits("/images/{*}/json", "/images/json").is_none());
        assert!(fits("/containers/{}", "/containers/").is_none());
        assert!(fits("/containers/{}", "/containers/a/b").is_none());
    }

    #[test]
    fn the_first_line_that_fits_serves() {
        assert_eq!(find(&Method::GET, "/images/json").unwrap().1.len(), 0);
        assert_eq!(find(&Method::GET, "/images/a/b/json").unwrap().1, ["a/b"]);
        assert!(find(&Method::PATCH, "/info").is_none());
    }
}
