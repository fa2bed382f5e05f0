//! Who may do what: authentication, impersonation, authorization, reviews, tokens.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use apiserver::UserInfo;
use common::{Cluster, JSON, call};
use http::Method;
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn roles_are_needed_and_suffice() {
    let c = Cluster::start().await;
    let ann = c.as_user(UserInfo::new("ann", &["devs"]));
    let refused = call(&ann, Method::GET, PODS, &[], "").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "devs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"}]});
    let made = c.post(bindings, binding.clone()).await;
    assert_eq!(made.code, 201, "{}", made.value);
    assert_eq!(
        call(&ann, Method::GET, PODS, &[], "").await.code,
        200,
        "a binding holds as soon as it is answered"
    );
    assert_eq!(call(&ann, Method::GET, "/api/v1/pods", &[], "").await.code, 403);
    assert_eq!(call(&ann, Method::DELETE, PODS, &[], "").await.code, 403);
    assert_eq!(call(&ann, Method::GET, "/apis", &[], "").await.code, 200);
    assert_eq!(call(&ann, Method::GET, "/metrics", &[], "").await.code, 403);
    // Nobody gives what they do not have.
    let more = c
        .post(
            bindings,
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "admins"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]}),
        )
        .await;
    assert_eq!(more.code, 201, "{}", more.value);
    let mut greedy = binding;
    greedy["metadata"]["name"] = json!("greedy");
    greedy["roleRef"]["name"] = json!("cluster-admin");
    let refused = call(&ann, Method::POST, bindings, JSON, greedy.to_string()).await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(refused.message().contains("permissions not currently held"), "{}", refused.message());
    c.delete(&format!("{bindings}/devs")).await;
    c.delete(&format!("{bindings}/admins")).await;
    assert_eq!(call(&ann, Method::GET, PODS, &[], "").await.code, 403);
}

#[tokio::test]
async fn impersonation() {
    let c = Cluster::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers =
        [("content-type", "application/json"), ("impersonate-user", "bob"), ("impersonate-group", "g")];
    let answer = c.call(Method::POST, path, &headers, review.clone()).await;
    let user = &answer.value["status"]["userInfo"];
    assert_eq!(user["username"], "bob", "{}", answer.value);
    assert_eq!(user["groups"], json!(["g", "system:authenticated"]));
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let refused = call(&ann, Method::POST, path, &headers, review.clone()).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("cannot impersonate resource \"users\""), "{}", refused.message());
    let own = call(&ann, Method::POST, path, JSON, review).await;
    assert_eq!(own.value["status"]["userInfo"]["username"], "ann");
}

#[tokio::test]
async fn reviews_say_what_requests_would() {
    let c = Cluster::start().await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |user: &str, verb: &str, resource: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user,
            "resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}}})
    };
    let ask = async |user, verb, resource| {
        c.post(path, review(user, verb, resource)).await.value["status"]["allowed"].as_bool().unwrap()
    };
    assert!(!ask("ann", "get", "pods").await);
    assert!(ask("system:kube-scheduler", "get", "nodes").await);
    assert!(!ask("system:kube-scheduler", "delete", "nodes").await);
    let rules = c
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
                "spec": {"namespace": "default"}}),
        )
        .await;
    assert_eq!(rules.value["status"]["resourceRules"][0]["verbs"], json!(["*"]), "{}", rules.value);
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let c = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    c.post(accounts, account.clone()).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let made = c.post(&format!("{accounts}/robot/token"), request.clone()).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let token = made.value["status"]["token"].as_str().unwrap().to_owned();
    let review = |audience: Option<&str>| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audience.map(|a| vec![a])}})
    };
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let good = c.post(path, review(None)).await.value;
    assert_eq!(good["status"]["authenticated"], true, "{good}");
    assert_eq!(good["status"]["user"]["username"], "system:serviceaccount:default:robot");
    let other = c.post(path, review(Some("elsewhere"))).await.value;
    assert_ne!(other["status"]["authenticated"], true, "{other}");
    c.delete(&format!("{accounts}/robot")).await;
    // An account of the same name is another account.
    c.post(accounts, account).await;
    let dead = c.post(path, review(None)).await.value;
    assert_ne!(dead["status"]["authenticated"], true, "{dead}");
    let short = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 10}});
    let refused = c.post(&format!("{accounts}/robot/token"), short).await;
    assert!(
        refused.message().contains("may not specify a duration less than 10 minutes"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn bootstrap_tokens_are_of_their_own_groups() {
    let c = Cluster::start().await;
    let review = async |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        c.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.value["status"].clone()
    };
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let write = async |id: &str, more: serde_json::Value| {
        let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:a:b"});
        api::patch::merge_patch(&mut data, &more);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": data});
        assert_eq!(c.post(secrets, secret).await.code, 201);
    };
    write("aaaaaa", json!({})).await;
    let good = review("aaaaaa.0123456789abcdef").await;
    assert_eq!(good["user"]["username"], "system:bootstrap:aaaaaa", "{good}");
    assert_eq!(
        good["user"]["groups"],
        json!(["system:bootstrappers", "system:authenticated", "system:bootstrappers:a:b"])
    );
    assert_ne!(review("aaaaaa.0123456789abcdee").await["authenticated"], true);
    for (i, more) in [
        json!({"auth-extra-groups": "system:masters"}),
        json!({"auth-extra-groups": "system:bootstrappers:a,system:bootstrappers:"}),
        json!({"usage-bootstrap-authentication": "false"}),
        json!({"expiration": "2001-01-01T00:00:00Z"}),
        json!({"expiration": "soon"}),
        json!({"token-id": "another"}),
    ]
    .into_iter()
    .enumerate()
    {
        write(&format!("bbbbb{i}"), more.clone()).await;
        let refused = review(&format!("bbbbb{i}.0123456789abcdef")).await;
        assert_ne!(refused["authenticated"], true, "{more}: {refused}");
    }
    write("cccccc", json!({"expiration": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(review("cccccc.0123456789abcdef").await["authenticated"], true);
}

#[tokio::test]
async fn aggregated_roles_are_for_those_who_have_everything() {
    let c = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = |name: &str, rules: serde_json::Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create", "get", "update", "patch"]}]);
    c.post(roles, role("editor", rules)).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "editor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "editor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let mut gathering = role("all", json!([]));
    gathering["aggregationRule"] =
        json!({"clusterRoleSelectors": [{"matchLabels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}]});
    let refused = call(&ann, Method::POST, roles, JSON, gathering.to_string()).await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(
        refused.message().contains("must have cluster-admin privileges to use an aggregationRule"),
        "{}",
        refused.message()
    );
    assert_eq!(c.post(roles, gathering).await.code, 201);
    let empty = call(&ann, Method::POST, roles, JSON, role("empty", json!([])).to_string()).await;
    assert_eq!(empty.code, 201, "{}", empty.value);
    let more = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let merge = [("content-type", "application/merge-patch+json")];
    let refused = call(&ann, Method::PATCH, &format!("{roles}/empty"), &merge, more.to_string()).await;
    assert!(refused.message().contains("permissions not currently held"), "{}", refused.message());
    // `escalate` on a role is leave to go beyond one's own.
    let escalate = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create", "get", "update", "patch"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["empty"], "verbs": ["escalate"]}]);
    c.patch(&format!("{roles}/editor"), "merge-patch+json", json!({"rules": escalate})).await;
    let escalated = call(&ann, Method::PATCH, &format!("{roles}/empty"), &merge, more.to_string()).await;
    assert_eq!(escalated.code, 200, "{}", escalated.value);
}

#[tokio::test]
async fn impersonation_asks_leave_for_each_part() {
    let c = Cluster::start().await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["g"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["7"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["view"], "verbs": ["impersonate"]}]);
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterroles",
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "actor"}, "rules": rules})).await;
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "actor"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "actor"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]})).await;
    let ann = c.as_user(UserInfo::new("ann", &[]));
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let path = format!("/apis/authentication.k8s.io/{version}/selfsubjectreviews");
        let body =
            json!({"apiVersion": format!("authentication.k8s.io/{version}"), "kind": "SelfSubjectReview"})
                .to_string();
        let ask = async |headers: &[(&str, &str)]| {
            let all: Vec<(&str, &str)> = JSON.iter().chain(headers).copied().collect();
            call(&ann, Method::POST, &path, &all, body.clone()).await
        };
        let (user, group, uid, extra) = (
            ("impersonate-user", "bob"),
            ("impersonate-group", "g"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-scopes", "view"),
        );
        let whole = ask(&[user, group, uid, extra]).await;
        assert_eq!(whole.code, 201, "{version}: {}", whole.value);
        let info = &whole.value["status"]["userInfo"];
        assert_eq!(
            *info,
            json!({"username": "bob", "groups": ["g", "system:authenticated"], "uid": "7", "extra": {"scopes": ["view"]}})
        );
        for (bad, what) in [
            (vec![("impersonate-user", "root")], "users"),
            (vec![user, ("impersonate-group", "system:masters")], "groups"),
            (vec![user, ("impersonate-uid", "8")], "uids"),
            (vec![user, ("impersonate-extra-scopes", "edit")], "userextras/scopes"),
            (vec![user, ("impersonate-extra-other", "view")], "userextras/other"),
        ] {
            let refused = ask(&bad).await;
            assert_eq!(refused.code, 403, "{bad:?}");
            assert!(
                refused.message().contains(&format!("cannot impersonate resource \"{what}\"")),
                "{}",
                refused.message()
            );
        }
        assert_eq!(ask(&[group]).await.code, 400);
        let account = ask(&[("impersonate-user", "system:serviceaccount:a:b")]).await;
        assert_eq!(
            account.value["status"]["userInfo"]["groups"],
            json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"])
        );
    }
}

#[tokio::test]
async fn tokens_bound_to_pods_and_secrets_end_with_them() {
    let c = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let review = async |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        c.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.value["status"].clone()
    };
    let request = async |kind: &str, name: &str, uid: &str| {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}});
        c.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    for (kind, path, object) in [("Pod", PODS, pod), ("Secret", "/api/v1/namespaces/default/secrets", secret)]
    {
        let made = c.post(path, object).await;
        assert_eq!(made.code, 201, "{}", made.value);
        let (name, uid) = (
            made.value["metadata"]["name"].as_str().unwrap(),
            made.value["metadata"]["uid"].as_str().unwrap(),
        );
        let other = request(kind, name, "another").await;
        assert_eq!(other.code, 409, "{}", other.value);
        let answer = request(kind, name, uid).await;
        let token = answer.value["status"]["token"].as_str().unwrap().to_owned();
        let good = review(&token).await;
        assert_eq!(good["authenticated"], true, "{good}");
        if kind == "Pod" {
            assert_eq!(good["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
        }
        c.delete(&format!("{path}/{name}")).await;
        assert_ne!(review(&token).await["authenticated"], true, "the {kind} is gone");
    }
    assert_eq!(request("ConfigMap", "x", "y").await.code, 400);
    assert_eq!(request("Pod", "none", "y").await.code, 404);
}

#[tokio::test]
async fn nobody_is_let_in_where_that_is_set() {
    for anonymous in [true, false] {
        let c = Cluster::start_as(store::memory(), |o| o.anonymous = anonymous).await;
        let nobody = c.nobody().await;
        let version = call(&nobody, Method::GET, "/version", &[], "").await;
        assert_eq!(version.code, if anonymous { 200 } else { 401 }, "{}", version.value);
        let pods = call(&nobody, Method::GET, PODS, &[], "").await;
        assert_eq!(pods.code, if anonymous { 403 } else { 401 });
        let wrong = call(&nobody, Method::GET, "/version", &[("authorization", "Bearer x.y.z")], "").await;
        assert_eq!(wrong.code, 401, "a token that is wrong is not none");
    }
}
