//! The S3 server inside a test.

use std::io::{Read, Write};
use std::net::TcpStream;

use lab::s3::{BUCKET, S3, Settings};

#[test]
fn it_serves_who_signs_and_ends_with_the_test() {
    let dir = std::env::temp_dir().join(format!("lab-s3-{}", std::process::id()));
    let settings = Settings {
        dir: dir.clone(),
        port: 0,
        access_key: "key".to_owned(),
        secret_key: "secret".to_owned(),
    };
    let s3 = S3::start(&settings).expect("it starts");
    let address = s3.endpoint().replace("http://", "");
    let mut connection = TcpStream::connect(&address).expect("it listens");
    let request = format!("GET /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).expect("it reads");
    let mut reply = String::new();
    connection.read_to_string(&mut reply).expect("it answers");
    assert!(reply.starts_with("HTTP/1.1 403"), "an unsigned request was served: {reply}");
    assert!(dir.join(BUCKET).is_dir(), "the bucket is not there");
    drop(s3);
    assert!(TcpStream::connect(&address).is_err(), "it still listens");
    std::fs::remove_dir_all(&dir).expect("it can be removed");
}
