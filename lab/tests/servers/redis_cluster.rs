//! A Redis Cluster of the lab's.

use std::io::{Read, Write};
use std::net::TcpStream;

use lab::redis::RedisCluster;

use crate::scratch::Scratch;

fn ask(port: u16, command: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).expect("it reads");
    let mut reply = String::new();
    connection.read_to_string(&mut reply).expect("it answers");
    reply
}

#[test]
fn keys_are_spread_others_are_redirected_and_a_node_comes_back_to_its_slots() {
    let site = Scratch::new("redis-cluster");
    let mut cluster = RedisCluster::start(&site, "redis").expect("it starts");
    let ports: Vec<u16> = cluster.nodes().iter().map(lab::redis::Redis::port).collect();
    assert_eq!(
        cluster.url(),
        ports.iter().map(|port| format!("redis://127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    );

    // As redis-cli computes it: `a` is in slot 15495, `b` in 3300, `c` in 7365.
    for (key, slot, owner) in [("a", 15_495, 2), ("b", 3_300, 0), ("c", 7_365, 1)] {
        for (index, port) in ports.iter().enumerate() {
            let reply = ask(*port, &format!("SET {key} value"));
            let moved = format!("-MOVED {slot} 127.0.0.1:{}\r\n", ports[owner]);
            let expected = if index == owner { "+OK\r\n" } else { moved.as_str() };
            assert!(reply.starts_with(expected), "{key} at node {index}: {reply}");
        }
    }

    // Without one, the others go on; it comes back empty, to the same slots.
    cluster.nodes()[0].process().kill();
    assert!(ask(ports[1], "GET c").contains("value"));
    cluster.nodes()[0].process().restart().expect("it starts again");
    cluster.nodes()[0].wait_until_ready().expect("it answers");
    cluster.wait_until_ready().expect("it is whole again");
    assert!(ask(ports[0], "GET b").starts_with("$-1"));
    assert!(ask(ports[2], "GET b").starts_with(&format!("-MOVED 3300 127.0.0.1:{}", ports[0])));
}
