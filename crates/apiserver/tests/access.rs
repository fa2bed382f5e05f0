//! Who may do what: authentication, impersonation, authorization, reviews, tokens.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use api::Value;
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
    assert!(answer.value["metadata"]["creationTimestamp"].is_string(), "{}", answer.value);
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
    // Such a token is for the API server, and for nobody else who may ask.
    let own = good["audiences"][0].as_str().unwrap();
    for (audiences, want) in
        [(json!(["vault"]), json!(null)), (json!(["vault", own]), json!([own])), (json!([own]), json!([own]))]
    {
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": "aaaaaa.0123456789abcdef", "audiences": audiences}});
        let answer = c.post("/apis/authentication.k8s.io/v1/tokenreviews", asked).await.value;
        assert_eq!(answer["status"]["audiences"], want, "{answer}");
        assert_eq!(answer["status"]["authenticated"], !want.is_null(), "{answer}");
    }
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
        refused.message().contains("must have cluster-admin privileges to use the aggregationRule"),
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
    // What is made by POST has no name yet that leave could be given for.
    assert_eq!(c.delete(&format!("{roles}/empty")).await.code, 200);
    let mut greedy = role("empty", json!([]));
    api::patch::merge_patch(&mut greedy, &more);
    let refused = call(&ann, Method::POST, roles, JSON, greedy.to_string()).await;
    assert_eq!(refused.code, 403, "{}", refused.value);
}

#[tokio::test]
async fn what_one_could_not_give_one_does_not_touch() {
    let c = Cluster::start().await;
    let group = "rbac.authorization.k8s.io";
    let base = format!("/apis/{group}/v1");
    let may =
        json!([{"apiGroups": [group], "resources": ["*"], "verbs": ["create", "get", "update", "patch"]}]);
    role(&c, "default", "ann", may.clone()).await;
    let object = |kind: &str, more: Value| {
        let mut object =
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "big"}});
        api::patch::merge_patch(&mut object, &more);
        object
    };
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let bound = |kind: &str, name: &str, user: &str| {
        json!({"roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}]})
    };
    let editor = json!({"rules": may, "metadata": {"name": "editor"}});
    let mut all = bound("ClusterRole", "editor", "ann");
    all["metadata"] = json!({"name": "editor"});
    let local = format!("{base}/namespaces/default");
    for (path, object) in [
        (format!("{base}/clusterroles"), object("ClusterRole", editor)),
        (format!("{base}/clusterrolebindings"), object("ClusterRoleBinding", all)),
    ] {
        assert_eq!(c.post(&path, object).await.code, 201);
    }
    let mut lost = bound("ClusterRole", "gone", "ann");
    lost["metadata"] = json!({"name": "lost"});
    let lost = object("ClusterRoleBinding", lost);
    assert_eq!(c.post(&format!("{base}/clusterrolebindings"), lost).await.code, 201);
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let merge = [("content-type", "application/merge-patch+json")];
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]);
    for (path, object) in [
        (format!("{base}/clusterroles"), object("ClusterRole", rules.clone())),
        (format!("{local}/roles"), object("Role", rules)),
        (
            format!("{base}/clusterrolebindings"),
            object("ClusterRoleBinding", bound("ClusterRole", "big", "b")),
        ),
        (format!("{local}/rolebindings"), object("RoleBinding", bound("Role", "big", "b"))),
    ] {
        assert_eq!(c.post(&path, object).await.code, 201);
        for (change, code) in [
            // A label may be what an aggregated role gathers by.
            (json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}}), 403),
            (json!({"metadata": {"annotations": {"a": "b"}}}), 403),
            (json!({"metadata": {"ownerReferences": owner}}), 200),
            (json!({"metadata": {"finalizers": ["example.com/a"]}}), 200),
        ] {
            let answer = call(&ann, Method::PATCH, &format!("{path}/big"), &merge, change.to_string()).await;
            assert_eq!(answer.code, code, "{path} {change}: {}", answer.value);
            if code == 403 {
                let why = "; resolution errors: [clusterrole.rbac.authorization.k8s.io \"gone\" not found]";
                assert!(answer.message().ends_with(why), "{}", answer.message());
            }
        }
    }
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
    // So that those who are not known may ask who they are.
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "unknown"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:basic-user"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}]})).await;
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
        for (asked, groups) in [
            (vec![("impersonate-user", "system:anonymous")], json!(["system:unauthenticated"])),
            (vec![("impersonate-user", "system:anonymous"), group], json!(["g", "system:unauthenticated"])),
            (vec![user, ("impersonate-group", "system:unauthenticated")], json!(["system:unauthenticated"])),
        ] {
            let mut all = vec![("content-type", "application/json")];
            all.extend(&asked);
            let answer = c.call(Method::POST, &path, &all, body.clone()).await;
            assert_eq!(answer.value["status"]["userInfo"]["groups"], groups, "{asked:?}");
        }
        // Whom no service account can be called, that is asked for as a user.
        let other = ask(&[("impersonate-user", "system:serviceaccount:a:b:c")]).await;
        assert!(other.message().contains("cannot impersonate resource \"users\""), "{}", other.value);
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

/// A role in a namespace, and who has it.
async fn role(c: &Cluster, namespace: &str, name: &str, rules: Value) {
    let group = "rbac.authorization.k8s.io";
    let base = format!("/apis/{group}/v1/namespaces/{namespace}");
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules});
    assert_eq!(c.post(&format!("{base}/roles"), role).await.code, 201);
    let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name}]});
    assert_eq!(c.post(&format!("{base}/rolebindings"), binding).await.code, 201);
}

#[tokio::test]
async fn everything_in_a_namespace_is_nothing_outside() {
    let c = Cluster::start().await;
    for name in ["foo", "bar"] {
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        assert_eq!(c.post("/api/v1/namespaces", made).await.code, 201);
    }
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    assert_eq!(c.post("/api/v1/nodes", node).await.code, 201);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "x"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    assert_eq!(c.post("/api/v1/persistentvolumes", volume).await.code, 201);
    role(&c, "foo", "ann", json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])).await;
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let merge = [("content-type", "application/merge-patch+json")];
    let ns = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "more"}}).to_string();
    let tampered = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"finalizers": []},
        "status": {"phase": "Released", "addresses": []}});
    for (method, path, body) in [
        (Method::GET, "/api/v1/namespaces/foo/nodes/n1", ""),
        (Method::GET, "/api/v1/namespaces/foo/nodes", ""),
        (Method::GET, "/api/v1/namespaces/foo/nodes/n1/proxy/pods", ""),
        (Method::POST, "/api/v1/namespaces/foo/nodes/n1/proxy/run/a/b/c", ""),
        (Method::GET, "/api/v1/watch/namespaces/foo/nodes/n1/proxy/pods", ""),
        (Method::PATCH, "/api/v1/namespaces/foo/nodes/n1/status", &tampered.to_string()),
        (Method::PATCH, "/api/v1/namespaces/foo/namespaces/bar/finalize", &tampered.to_string()),
        (Method::PATCH, "/api/v1/namespaces/foo/namespaces/bar/status", &tampered.to_string()),
        (Method::PATCH, "/api/v1/namespaces/foo/persistentvolumes/x/status", &tampered.to_string()),
        (Method::DELETE, "/api/v1/namespaces/foo/namespaces", ""),
        (Method::POST, "/api/v1/namespaces/foo/namespaces", &ns),
    ] {
        let answer = call(&ann, method.clone(), path, &merge, body.to_owned()).await;
        assert_eq!(answer.code, 404, "{method} {path}: {}", answer.value);
        assert_eq!(answer.message(), "the server could not find the requested resource");
    }
    // The name that is authorized is the one in the path.
    for (path, body) in [("/api/v1/namespaces/foo", ns), ("/api/v1/namespaces/foo/pods/p", "{}".into())] {
        let answer = call(&ann, Method::POST, path, JSON, body).await;
        assert_eq!(answer.code, 405, "{path}: {}", answer.value);
    }
    assert_eq!(c.get("/api/v1/namespaces/more").await.code, 404);
    assert_eq!(c.get("/api/v1/nodes/n1").await.value["status"]["addresses"][0]["address"], "192.0.2.1");
    assert_eq!(c.get("/api/v1/persistentvolumes/x").await.value["status"]["phase"], "Pending");
    // Its own namespace it has, and the paths that lead to objects across namespaces are nobody's.
    assert_eq!(call(&ann, Method::GET, "/api/v1/namespaces/foo", &[], "").await.code, 200);
    let annotated = json!({"metadata": {"annotations": {"a": "b"}}}).to_string();
    for path in ["/api/v1/namespaces/foo", "/api/v1/namespaces/foo/status"] {
        let answer = call(&ann, Method::PATCH, path, &merge, annotated.clone()).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.value);
    }
    assert_eq!(c.get("/api/v1/pods/p/log").await.code, 404);
    assert_eq!(c.delete("/api/v1/pods").await.code, 405, "not all namespaces' at once");
}

#[tokio::test]
async fn names_of_any_script_are_impersonated_or_refused_but_never_lost() {
    let c = Cluster::start().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let ask = async |headers: &[(&str, &[u8])]| {
        let mut request = http::Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let answer = c.admin.transport().call(request.body(body.clone().into()).unwrap()).await.unwrap();
        let value: Value = serde_json::from_slice(answer.body()).unwrap();
        (answer.status().as_u16(), value)
    };
    let user = ("impersonate-user", "jürgen".as_bytes());
    let (code, value) = ask(&[
        user,
        ("impersonate-group", "prüfer".as_bytes()),
        ("impersonate-extra-ort", "Köln".as_bytes()),
    ])
    .await;
    assert_eq!(code, 201, "{value}");
    assert_eq!(
        value["status"]["userInfo"],
        json!({"username": "jürgen", "groups": ["prüfer", "system:authenticated"], "extra": {"ort": ["Köln"]}})
    );
    for unreadable in [
        vec![("impersonate-user", &b"j\xfcrgen"[..])],
        vec![user, ("impersonate-group", b"\xff")],
        vec![user, ("impersonate-uid", b"\xff")],
        vec![user, ("impersonate-extra-a", b"\xff")],
        vec![user, ("impersonate-extra-%ff", b"a")],
    ] {
        let (code, value) = ask(&unreadable).await;
        assert_eq!(code, 400, "{unreadable:?}: {value}");
        assert!(value["message"].as_str().unwrap().contains("UTF-8"), "{value}");
    }
    // Credentials that cannot be read are not the same as none.
    let request = http::Request::get("/version")
        .header("authorization", http::HeaderValue::from_bytes(b"Bearer \xff").unwrap());
    let answer = c.nobody().await.call(request.body(bytes::Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
}

#[tokio::test]
async fn updates_that_create_need_leave_to_create() {
    let c = Cluster::start().await;
    let rules = |verbs: Value| {
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}])
    };
    role(&c, "default", "changer", rules(json!(["get", "update", "patch"]))).await;
    role(&c, "default", "creator", rules(json!(["get", "update", "patch", "create"]))).await;
    let apply = [("content-type", "application/apply-patch+yaml")];
    for (name, code) in [("changer", 403), ("creator", 201)] {
        let user = c.as_user(UserInfo::new(name, &[]));
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": "a"}});
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}");
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let maps = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=m");
        for (method, path, headers, mut body) in
            [(Method::PUT, leases, JSON, lease), (Method::PATCH, maps, &apply[..], map)]
        {
            let answer = call(&user, method.clone(), &path, headers, body.to_string()).await;
            assert_eq!(answer.code, code, "{name} {method}: {}", answer.value);
            if code == 403 {
                assert!(answer.message().contains("cannot create resource"), "{}", answer.message());
                // What is there may be changed all the same: a lease by those who say which they know.
                let made = c.call(method.clone(), &path, headers, body.to_string()).await;
                assert_eq!(made.code, 201);
                if method == Method::PUT {
                    let again = call(&user, method.clone(), &path, headers, body.to_string()).await;
                    assert_eq!(again.code, 422);
                    assert!(
                        again.message().contains("must be specified for an update"),
                        "{}",
                        again.message()
                    );
                    body = made.value;
                }
                assert_eq!(call(&user, method, &path, headers, body.to_string()).await.code, 200);
            }
        }
    }
}

#[tokio::test]
async fn to_run_something_in_a_pod_one_must_create() {
    for (release, needed) in [("1.36", true), ("1.30", false)] {
        let c = Cluster::start_as(store::memory(), |o| o.release = release.parse().unwrap()).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"nodeName": "nowhere", "containers": [{"name": "a", "image": "b"}]}});
        assert_eq!(c.post(PODS, pod).await.code, 201);
        let rules = |verbs: Value| {
            json!([{"apiGroups": [""], "verbs": verbs,
                "resources": ["pods", "pods/log", "pods/exec", "pods/attach", "pods/portforward"]}])
        };
        role(&c, "default", "reader", rules(json!(["get"]))).await;
        role(&c, "default", "runner", rules(json!(["get", "create"]))).await;
        for (sub, query) in
            [("exec", "command=ls&stdout=1"), ("attach", "stdout=1"), ("portforward", "ports=80")]
        {
            let path = format!("{PODS}/p/{sub}?{query}");
            for (name, allowed) in [("reader", !needed), ("runner", true)] {
                let user = c.as_user(UserInfo::new(name, &[]));
                let answer = call(&user, Method::GET, &path, &[], "").await;
                if allowed {
                    assert!(answer.message().contains("nodes \"nowhere\" not found"), "{}", answer.value);
                } else {
                    assert_eq!(answer.code, 403, "{}", answer.value);
                    let why = format!("cannot create resource \"pods/{sub}\"");
                    assert!(answer.message().contains(&why), "{}", answer.message());
                }
            }
            let wrong = c.call(Method::PUT, &path, &[], "").await;
            assert_eq!(wrong.code, 405, "{}", wrong.value);
        }
        let reader = c.as_user(UserInfo::new("reader", &[]));
        let log = call(&reader, Method::GET, &format!("{PODS}/p/log"), &[], "").await;
        assert!(log.message().contains("nodes \"nowhere\" not found"), "{}", log.value);
    }
}
