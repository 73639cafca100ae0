//! The fault proxy before a real Redis.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lab::fault::{Fault, FaultProxy};
use lab::ports::Port;
use lab::redis::Redis;

use crate::scratch::Scratch;

/// Long enough for anything on loopback; only what hangs takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Way {
    proxy: FaultProxy,
    redis: Redis,
    _site: Scratch,
}

impl Way {
    fn to_redis(test: &str) -> Self {
        let site = Scratch::new(test);
        let redis =
            Redis::start(&site, "redis", Port::free().expect("a port is free")).expect("it starts");
        let proxy = FaultProxy::before(redis.port()).expect("it starts");
        Self { proxy, redis, _site: site }
    }

    fn connect(&self) -> TcpStream {
        connect(self.proxy.port())
    }
}

fn connect(port: u16) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("it is a time-out");
    connection
}

/// Sends a command and reads a reply of the same length as the one expected.
#[track_caller]
fn ask(connection: &mut TcpStream, command: &str, expected: &str) {
    send(connection, command);
    answers(connection, expected);
}

#[track_caller]
fn send(connection: &mut TcpStream, command: &str) {
    connection.write_all(format!("{command}\r\n").as_bytes()).expect("it is sent");
}

#[track_caller]
fn answers(connection: &mut TcpStream, expected: &str) {
    let mut reply = vec![0; expected.len()];
    connection.read_exact(&mut reply).expect("it answers");
    assert_eq!(String::from_utf8_lossy(&reply), expected);
}

#[track_caller]
fn is_reset(connection: &mut TcpStream) {
    let ended = connection.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{ended}");
}

/// Nothing comes, and nothing ends it. Silence has no end to wait for, so a while must do.
#[track_caller]
fn is_silent(connection: &mut TcpStream) {
    connection.set_read_timeout(Some(Duration::from_millis(150))).expect("it is a time-out");
    let silence = connection.read(&mut [0]).expect_err("nothing comes");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock, "{silence}");
    connection.set_read_timeout(Some(PATIENCE)).expect("it is a time-out");
}

#[test]
fn every_byte_passes_in_order() {
    let way = Way::to_redis("fault-pass");
    let mut connection = way.connect();
    let value: Vec<u8> =
        (0..8_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let length = value.len();
    let mut once = format!("+OK\r\n${length}\r\n").into_bytes();
    once.extend_from_slice(&value);
    once.extend_from_slice(b"\r\n");
    let (mut reader, expected) =
        (connection.try_clone().expect("it can be shared"), once.repeat(3));
    std::thread::scope(|scope| {
        // Three at once, so that both directions are full.
        let reading = scope.spawn(move || {
            let mut read = vec![0; expected.len()];
            reader.read_exact(&mut read).expect("all of it arrives");
            // Not assert_eq, which would print 24 MB.
            assert!(read == expected, "it is not what was sent");
        });
        for _ in 0..3 {
            let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${length}\r\n");
            connection.write_all(head.as_bytes()).expect("it is sent");
            connection.write_all(&value).expect("it is sent");
            connection.write_all(b"\r\nGET key\r\n").expect("it is sent");
        }
        reading.join().expect("it reads");
    });
}

/// A connection through a proxy to a server that does as the test wants: a Redis ends when its client does.
fn both_ends() -> (FaultProxy, TcpStream, TcpStream) {
    let server = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
    let port = server.local_addr().expect("it is bound").port();
    let proxy = FaultProxy::before(port).expect("it starts");
    let client = connect(proxy.port());
    let (accepted, _) = server.accept().expect("the proxy connects");
    accepted.set_read_timeout(Some(PATIENCE)).expect("it is a time-out");
    (proxy, client, accepted)
}

#[test]
fn an_end_passes_and_leaves_the_other_way_open() {
    let (_proxy, mut client, mut server) = both_ends();
    client.write_all(b"request").expect("it is open");
    client.shutdown(Shutdown::Write).expect("it is open");
    let mut request = String::new();
    server.read_to_string(&mut request).expect("it ends in an orderly way");
    assert_eq!(request, "request");
    server.write_all(b"reply").expect("this way is open");
    drop(server);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("it ends in an orderly way");
    assert_eq!(reply, "reply");
}

#[test]
fn an_end_does_not_come_out_of_a_black_hole_before_it_is_healed() {
    let (proxy, client, mut server) = both_ends();
    proxy.set(Fault::Drop).expect("it obeys");
    drop(client);
    is_silent(&mut server);
    proxy.clear().expect("it obeys");
    assert_eq!(server.read(&mut [0]).expect("it ends in an orderly way"), 0);
}

#[test]
fn what_is_under_way_is_bounded() {
    let (proxy, mut client, _server) = both_ends();
    proxy.set(Fault::Latency(Duration::from_secs(3_600))).expect("it obeys");
    client.set_write_timeout(Some(Duration::from_millis(500))).expect("it is a time-out");
    // The kernel keeps some megabytes on each side, the proxy one.
    let (chunk, most) = (vec![0; 1_000_000], 100);
    let full = (0..most).find_map(|_| client.write_all(&chunk).err());
    let full = full.expect("the client has to wait");
    assert_eq!(full.kind(), ErrorKind::WouldBlock, "{full}");
}

#[test]
fn many_connections_do_not_mix() {
    let way = Way::to_redis("fault-many");
    std::thread::scope(|scope| {
        for number in 0..50 {
            let mut connection = way.connect();
            scope.spawn(move || {
                for round in 0..20 {
                    let word = format!("{number}-{round}");
                    ask(
                        &mut connection,
                        &format!("ECHO {word}"),
                        &format!("${}\r\n{word}\r\n", word.len()),
                    );
                }
            });
        }
    });
    assert_eq!(way.proxy.accepted(), 50);
}

#[test]
fn down_closes_and_refuses_until_it_is_healed() {
    let way = Way::to_redis("fault-down");
    let mut connection = way.connect();
    ask(&mut connection, "PING", "+PONG\r\n");
    for _ in 0..3 {
        way.proxy.set(Fault::Down).expect("it obeys");
        assert_eq!(connection.read(&mut [0]).expect("it is closed, not reset"), 0);
        let refused =
            TcpStream::connect(("127.0.0.1", way.proxy.port())).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        way.proxy.clear().expect("it obeys");
        connection = way.connect();
        ask(&mut connection, "PING", "+PONG\r\n");
    }
}

#[test]
fn latency_delays_what_is_under_way_and_keeps_its_order() {
    let way = Way::to_redis("fault-latency");
    let mut connection = way.connect();
    let round_trip = Duration::from_millis(200);
    way.proxy.set(Fault::Latency(round_trip)).expect("it obeys");
    let began = Instant::now();
    for number in 0..100 {
        send(&mut connection, &format!("ECHO {number:04}"));
    }
    let replies: String = (0..100).map(|number| format!("$4\r\n{number:04}\r\n")).collect();
    answers(&mut connection, &replies);
    assert!(began.elapsed() >= round_trip);
    // An hour would be too long to wait: healing delivers what is under way.
    way.proxy.set(Fault::Latency(Duration::from_secs(3_600))).expect("it obeys");
    send(&mut connection, "PING");
    is_silent(&mut connection);
    way.proxy.clear().expect("it obeys");
    answers(&mut connection, "+PONG\r\n");
}

#[test]
fn a_black_hole_swallows_until_it_is_healed_and_then_resets_who_has_lost_something() {
    let way = Way::to_redis("fault-drop");
    let (mut idle, mut asking) = (way.connect(), way.connect());
    for connection in [&mut idle, &mut asking] {
        ask(connection, "PING", "+PONG\r\n");
    }
    way.proxy.set(Fault::Drop).expect("it obeys");
    let mut late = way.connect();
    for connection in [&mut asking, &mut late] {
        send(connection, "SET key value");
        is_silent(connection);
    }
    let mut behind = connect(way.redis.port());
    ask(&mut behind, "EXISTS key", ":0\r\n");
    way.proxy.clear().expect("it obeys");
    is_reset(&mut asking);
    is_reset(&mut late);
    ask(&mut idle, "PING", "+PONG\r\n");
    ask(&mut way.connect(), "PING", "+PONG\r\n");
}

#[test]
fn lost_replies_are_of_commands_that_were_carried_out() {
    let way = Way::to_redis("fault-drop-replies");
    let mut connection = way.connect();
    way.proxy.set(Fault::DropReplies).expect("it obeys");
    send(&mut connection, "SET key value");
    let mut behind = connect(way.redis.port());
    let began = Instant::now();
    let mut reply = [0; 4];
    while &reply != b":1\r\n" {
        assert!(began.elapsed() < PATIENCE, "the command has not arrived");
        send(&mut behind, "EXISTS key");
        behind.read_exact(&mut reply).expect("it answers");
    }
    is_silent(&mut connection);
    way.proxy.clear().expect("it obeys");
    is_reset(&mut connection);
}

#[test]
fn a_reset_cuts_every_open_connection_once() {
    let way = Way::to_redis("fault-reset");
    // Among them one that the proxy may not have accepted yet.
    for _ in 0..20 {
        let mut used = way.connect();
        ask(&mut used, "PING", "+PONG\r\n");
        let mut fresh = way.connect();
        way.proxy.reset().expect("it obeys");
        is_reset(&mut used);
        is_reset(&mut fresh);
    }
    ask(&mut way.connect(), "PING", "+PONG\r\n");
}

#[test]
fn what_the_server_does_shows_through() {
    let mut way = Way::to_redis("fault-through");
    let mut connection = way.connect();
    ask(&mut connection, "QUIT", "+OK\r\n");
    assert_eq!(connection.read(&mut [0]).expect("it ends in an orderly way"), 0);
    way.redis.process().kill();
    // The client is accepted before anybody knows.
    is_reset(&mut way.connect());
    way.redis.process().restart().expect("it starts again");
    way.redis.wait_until_ready().expect("it gets ready");
    ask(&mut way.connect(), "PING", "+PONG\r\n");
}

#[test]
fn new_connections_can_be_led_elsewhere() {
    let way = Way::to_redis("fault-lead");
    let other = Way::to_redis("fault-lead-other");
    let mut old = way.connect();
    ask(&mut old, "SET whose first", "+OK\r\n");
    ask(&mut other.connect(), "SET whose other", "+OK\r\n");
    way.proxy.lead_to(([127, 0, 0, 1], other.redis.port()).into()).expect("it obeys");
    ask(&mut way.connect(), "GET whose", "$5\r\nother\r\n");
    ask(&mut old, "GET whose", "$5\r\nfirst\r\n");
}

#[test]
fn a_dropped_proxy_leaves_nothing_open() {
    let way = Way::to_redis("fault-dropped");
    let mut connection = way.connect();
    ask(&mut connection, "PING", "+PONG\r\n");
    let port = way.proxy.port();
    drop(way.proxy);
    assert_eq!(connection.read(&mut [0]).expect("it is closed"), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it still listens");
}
