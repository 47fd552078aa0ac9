//! From a request to an answer.

use crate::door::Turned;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

/// What a part shows. The calls come from the server's thread, one at a time; one that waits (for another thread's answer, say) holds up
/// other requests and nothing else, so it must bound its wait. Each answers from one consistent moment.
pub trait View: Send + Sync {
    /// `/v1/status`: everything, as JSON.
    fn status(&self) -> Value;
    /// `/v1/clusters/{name}`; `None` if there is no such cluster.
    fn cluster(&self, name: &str) -> Option<Value>;
    /// `/v1/ready`: whether the part does its work, or why not.
    fn ready(&self) -> Result<(), String>;
    /// `/metrics`: Prometheus's text format, version 0.0.4.
    fn metrics(&self) -> String;
    /// `/`: a page of HTML. Scripts and outside resources do not run in it.
    fn page(&self) -> String;
}

type Answer = Response<Full<Bytes>>;

/// Judges a bearer token, and the only cluster that is asked about.
pub(crate) type Admit<'a> = dyn Fn(Option<&str>, Option<&str>) -> Result<(), Turned> + 'a;

/// The answer to a request, whose body is not read. `admit` is told the bearer token and the only cluster that is asked about.
pub(crate) fn answer<B: Body>(request: &Request<B>, view: &dyn View, admit: &Admit<'_>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if !request.body().is_end_stream() {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body");
    }
    let path = request.uri().path();
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    match admit(bearer, path.strip_prefix("/v1/clusters/")) {
        Ok(()) => {}
        // Whoever balances load must know, and learns nothing else.
        Err(_) if path == "/v1/ready" => {
            let (code, ready) = match view.ready() {
                Ok(()) => (StatusCode::OK, true),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, false),
            };
            return json(code, &json!({"ready": ready}));
        }
        Err(Turned { may_try_again: false, sentence }) => return error(StatusCode::FORBIDDEN, &sentence),
        Err(Turned { sentence, .. }) => {
            let mut refused = error(StatusCode::UNAUTHORIZED, &sentence);
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
    }
    match path {
        "/" => text(StatusCode::OK, "text/html; charset=utf-8", view.page()),
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", view.metrics()),
        "/v1/status" => json(StatusCode::OK, &view.status()),
        "/v1/ready" => match view.ready() {
            Ok(()) => json(StatusCode::OK, &json!({"ready": true})),
            Err(reason) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reason": reason})),
        },
        path => match path.strip_prefix("/v1/clusters/").map(|name| view.cluster(name)) {
            Some(Some(cluster)) => json(StatusCode::OK, &cluster),
            Some(None) => error(StatusCode::NOT_FOUND, "there is no such cluster; /v1/status lists them"),
            None => error(StatusCode::NOT_FOUND, "there is nothing here; see /, /metrics, /v1/status, /v1/ready"),
        },
    }
}

/// The token in an Authorization header. The scheme's name is not case-sensitive.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn error(code: StatusCode, sentence: &str) -> Answer {
    json(code, &json!({"error": sentence}))
}

fn json(code: StatusCode, value: &Value) -> Answer {
    text(code, "application/json", format!("{value}\n"))
}

fn text(code: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, policy),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
