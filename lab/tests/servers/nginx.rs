//! What nginx does with requests, with the shipped configuration.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lab::nginx::Nginx;
use lab::ports::Port;

use crate::scratch::Scratch;

/// An API replica that answers every request with its name and the request's head.
struct Backend {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

/// What a backend does with a request.
#[derive(Clone, Copy)]
enum Conduct {
    Answers,
    HangsUp,
}

impl Backend {
    fn start(name: &'static str, conduct: Conduct) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        // Ends with the test's process.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve(connection, name, conduct, &counter));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(mut connection: TcpStream, name: &str, conduct: Conduct, requests: &AtomicUsize) {
    while let Some(head) = read_head(&mut connection) {
        requests.fetch_add(1, Ordering::SeqCst);
        if matches!(conduct, Conduct::HangsUp) {
            return;
        }
        let body = format!("{name}\n{head}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_head(connection: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Sends a request as it stands, and answers the whole reply.
fn send(port: u16, request: &str) -> String {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("nginx listens");
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    // nginx may answer and close before it has read everything; the answer is there all the same.
    let _ = connection.write_all(request.as_bytes());
    let head = read_head(&mut connection).expect("nginx answers");
    // Not up to the end of the connection: nginx waits five seconds for the rest of a refused body.
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("it has a length")];
    connection.read_exact(&mut body).expect("the body arrives");
    head + &String::from_utf8_lossy(&body)
}

fn request(port: u16, method: &str, path: &str, headers: &str) -> String {
    send(
        port,
        &format!(
            "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
        ),
    )
}

fn get(port: u16, path: &str) -> String {
    request(port, "GET", path, "")
}

fn start(site: &Scratch, backends: &[&Backend]) -> Nginx {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Nginx::start(site, "nginx", Port::free().expect("a port is free"), &addresses)
        .expect("nginx starts")
}

fn is_problem(reply: &str, status: u16) {
    assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "not {status}: {reply}");
    let head_and_body = reply.split_once("\r\n\r\n").expect("there is a body");
    let head = head_and_body.0.to_lowercase();
    assert!(head.contains("content-type: application/problem+json"), "{reply}");
    assert!(!head.contains("server: nginx/"), "the version is shown: {reply}");
    let body: serde_json::Value = serde_json::from_str(head_and_body.1).expect("the body is JSON");
    assert_eq!(body["status"], status);
    let id = body["request_id"].as_str().expect("it has the request's id");
    assert!(head.contains(&format!("x-request-id: {id}")), "{reply}");
}

#[test]
fn requests_are_spread_and_carry_what_the_api_needs() {
    let site = Scratch::new("nginx-spread");
    let backends = [Backend::start("a", Conduct::Answers), Backend::start("b", Conduct::Answers)];
    let nginx = start(&site, &[&backends[0], &backends[1]]);
    let replies: Vec<String> = (0..20).map(|_| get(nginx.port(), "/v1/products")).collect();
    assert!(backends.iter().all(|backend| backend.requests() > 0), "one got nothing");
    let reply = replies[0].to_lowercase();
    for header in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "host: shop.test",
        "x-request-id: ",
    ] {
        assert!(reply.contains(header), "{header} is missing in: {reply}");
    }
}

#[test]
fn a_client_s_request_id_and_addresses_are_passed_on() {
    let site = Scratch::new("nginx-id");
    let backend = Backend::start("a", Conduct::Answers);
    let nginx = start(&site, &[&backend]);
    let reply =
        request(nginx.port(), "GET", "/", "X-Request-Id: mine-1\r\nX-Forwarded-For: 192.0.2.1\r\n");
    assert!(reply.contains("X-Request-Id: mine-1"), "{reply}");
    assert!(reply.contains("X-Forwarded-For: 192.0.2.1, 127.0.0.1"), "{reply}");
}

#[test]
fn a_get_moves_on_from_a_replica_that_hangs_up_and_a_post_does_not() {
    let site = Scratch::new("nginx-retry");
    let (dying, well) =
        (Backend::start("dying", Conduct::HangsUp), Backend::start("well", Conduct::Answers));
    let nginx = start(&site, &[&dying, &well]);
    for _ in 0..10 {
        assert!(get(nginx.port(), "/").starts_with("HTTP/1.1 200"));
    }
    assert!(dying.requests() > 0, "it was never asked");

    let site = Scratch::new("nginx-no-retry");
    let nginx = start(&site, &[&dying, &dying]);
    let before = dying.requests();
    is_problem(&request(nginx.port(), "POST", "/v1/orders", ""), 503);
    assert_eq!(dying.requests() - before, 1, "a POST was sent twice");
}

#[test]
fn a_post_moves_on_from_a_replica_that_is_not_there() {
    let site = Scratch::new("nginx-refused");
    let well = Backend::start("well", Conduct::Answers);
    let gone = Backend {
        address: SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            Port::free().expect("a port is free").number(),
        )),
        requests: Arc::default(),
    };
    let nginx = start(&site, &[&gone, &well]);
    for _ in 0..10 {
        assert!(request(nginx.port(), "POST", "/v1/orders", "").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn the_list_of_replicas_can_change() {
    let site = Scratch::new("nginx-reload");
    let (old, new) =
        (Backend::start("old", Conduct::Answers), Backend::start("new", Conduct::Answers));
    let mut nginx = start(&site, &[&old]);
    assert!(get(nginx.port(), "/").contains("\r\n\r\nold"));
    nginx.set_upstreams(&[new.address]).expect("it can be changed");
    let before = old.requests();
    for _ in 0..20 {
        assert!(get(nginx.port(), "/").starts_with("HTTP/1.1 200"));
    }
    assert_eq!(old.requests(), before, "the old replica is still asked");
}

#[test]
fn nginx_s_own_errors_are_problems() {
    let site = Scratch::new("nginx-errors");
    let backend = Backend::start("a", Conduct::Answers);
    let gone = Backend {
        address: SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            Port::free().expect("a port is free").number(),
        )),
        requests: Arc::default(),
    };
    let nginx = start(&site, &[&backend]);
    let port = nginx.port();
    is_problem(&get(port, "/metrics"), 404);
    is_problem(&get(port, "/health/startup"), 404);
    is_problem(
        &send(
            port,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1073741824\r\n\r\n",
        ),
        413,
    );
    is_problem(&get(port, &format!("/{}", "x".repeat(9000))), 414);
    is_problem(&request(port, "GET", "/", &format!("X-Large: {}\r\n", "x".repeat(9000))), 431);
    let many: String = (0..4).map(|n| format!("X-{n}: {}\r\n", "x".repeat(7000))).collect();
    is_problem(&request(port, "GET", "/", &many), 431);
    is_problem(&send(port, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"), 400);
    is_problem(&send(port, "nonsense\r\n\r\n"), 400);
    is_problem(&request(port, "TRACE", "/", ""), 405);
    let odd = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n";
    is_problem(&send(port, odd), 501);
    is_problem(&send(port, "GET / HTTP/9.9\r\nHost: a\r\n\r\n"), 505);
    assert!(get(port, "/health/ready").starts_with("HTTP/1.1 200"));
    let known = backend.requests();
    assert_eq!(known, 1, "a refused request reached the API");

    let site = Scratch::new("nginx-down");
    let nginx = start(&site, &[&gone]);
    let reply = get(nginx.port(), "/");
    is_problem(&reply, 503);
    assert!(reply.contains("Retry-After: 1"), "{reply}");
    let hostile = request(nginx.port(), "GET", "/", "X-Request-Id: \"},{\"\r\n");
    is_problem(&hostile, 503);
}
