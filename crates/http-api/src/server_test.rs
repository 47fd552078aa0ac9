//! The server over real sockets, asked by our client and by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use super::*;
use crate::get_json;

struct Example;

impl View for Example {
    fn status(&self) -> Value {
        json!({"id": 1})
    }
    fn cluster(&self, name: &str) -> Option<Value> {
        (name == "main").then(|| json!({"name": name}))
    }
    fn ready(&self) -> Result<(), String> {
        Err("no majority".to_owned())
    }
    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }
    fn page(&self) -> String {
        "<h1>seawall</h1>".to_owned()
    }
}

fn start() -> Server {
    Server::start(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(Example)).unwrap()
}

/// Sends bytes and reads to the end.
fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(server: &Server, path: &str) -> String {
    raw(server, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[test]
fn every_path_answers() {
    let server = start();
    for (path, code, kind, body) in [
        ("/", 200, "text/html; charset=utf-8", "<h1>seawall</h1>"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "up 1\n"),
        ("/v1/status?pretty", 200, "application/json", "{\"id\":1}\n"),
        ("/v1/clusters/main", 200, "application/json", "{\"name\":\"main\"}\n"),
        ("/v1/clusters/other", 404, "application/json", "no such cluster"),
        ("/v1/clusters/", 404, "application/json", "no such cluster"),
        ("/v1/ready", 503, "application/json", "{\"ready\":false,\"reason\":\"no majority\"}\n"),
        ("/v2", 404, "application/json", "nothing here"),
    ] {
        let answer = get(&server, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{path}: {answer}");
        assert!(answer.split_once("\r\n\r\n").unwrap().1.contains(body), "{path}: {answer}");
    }
}

#[test]
fn methods_bodies_and_headers_are_bounded() {
    let server = start();
    let answer = raw(&server, b"DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"), "{answer}");
    let answer = raw(&server, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = raw(&server, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = raw(&server, format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(100_000)).as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = raw(&server, b"\x00\x01\x02 garbage\r\n\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(get(&server, "/").starts_with("HTTP/1.1 200 "), "it still serves");
}

#[test]
fn silent_clients_do_not_keep_others_out() {
    let server = start();
    let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
    // Answered as soon as the silent ones are shown out.
    assert!(get(&server, "/").starts_with("HTTP/1.1 200 "));
    drop(silent);
}

#[test]
fn our_client_reads_our_server() {
    let server = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let soon = Duration::from_secs(10);
    let addr = server.local_addr().to_string();
    let response = runtime.block_on(get_json(&addr, "/v1/status", soon)).unwrap();
    assert_eq!((response.code, response.body), (200, json!({"id": 1})));
    let response = runtime.block_on(get_json(&addr, "/v1/ready", soon)).unwrap();
    assert_eq!((response.code, &response.body["reason"]), (503, &json!("no majority")));
    let err = runtime.block_on(get_json(&addr, "/", soon)).unwrap_err();
    assert!(err.to_string().contains("not JSON"), "{err}");
    drop(server);
    let err = runtime.block_on(get_json(&addr, "/", soon)).unwrap_err();
    assert!(err.to_string().contains("cannot connect"), "{err}");
    assert!(runtime.block_on(get_json(&addr, "no slash\r\n", soon)).is_err());
}

#[test]
fn a_client_does_not_wait_for_ever() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let err = runtime.block_on(get_json(&addr, "/", Duration::from_millis(50))).unwrap_err();
    assert!(matches!(err, crate::ClientError::TimedOut { .. }), "{err}");
}
