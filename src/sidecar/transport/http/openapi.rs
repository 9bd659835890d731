//! The description of all routes (OpenAPI 3.1), and a page that shows it without anything from elsewhere.
//!
//! Invariant, tested: every route stands in it with its method, and nothing else does.

use axum::http::header::CONTENT_TYPE;
use axum::response::Html;

/// Written by hand: it says of each dialect what its clients send, which no type of ours could.
const DOCUMENT: &str = include_str!("openapi.json");
const PAGE: &str = include_str!("openapi.html");

/// `GET /openapi.json`.
pub(super) async fn document() -> ([(axum::http::HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// `GET /docs`.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn it_has_all_routes_and_no_others() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let methods = |(path, item): (&String, &Value)| {
            let methods: Vec<_> = item.as_object().unwrap().keys().map(|method| format!("{method} {path}")).collect();
            methods
        };
        let documented: BTreeSet<String> = document["paths"].as_object().unwrap().iter().flat_map(methods).collect();
        let source = include_str!("routes.rs");
        let route = |call: &str| {
            let (path, rest) = call.split_once('"').unwrap();
            let method = rest.trim_start_matches([',', ' ', '\n']).split('(').next().unwrap();
            format!("{method} {path}")
        };
        let mut routes: BTreeSet<String> = source.split(".route(\"").skip(1).map(route).collect();
        assert!(routes.remove("get /docs"), "the page shows the document and is no part of it");
        assert!(routes.len() > 30);
        assert_eq!(documented, routes);
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://") && !PAGE.contains("src="));
    }
}
