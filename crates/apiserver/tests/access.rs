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
