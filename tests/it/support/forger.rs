//! A way to a server that changes what the server says: for what no server of the lab would say.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Changes an answer that has just arrived. Answers are short and asked for one by one, so each
/// arrives whole.
pub type Forge = fn(&mut Vec<u8>);

/// Ends when it is dropped.
pub struct Forger {
    pub port: u16,
    accepts: JoinHandle<()>,
}

impl Forger {
    pub async fn start(server: u16, forge: Forge) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, forge));
            }
        });
        Self { port, accepts }
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn pass(client: TcpStream, server: u16, forge: Forge) {
    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    let (mut asks, mut hears) = client.into_split();
    let (mut answers, mut serves) = server.into_split();
    let there = async {
        let _ = copy(&mut asks, &mut serves).await;
        let _ = serves.shutdown().await;
    };
    let back = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = answers.read(&mut bytes).await {
            let mut answer = bytes[..read].to_vec();
            forge(&mut answer);
            if hears.write_all(&answer).await.is_err() {
                break;
            }
        }
        let _ = hears.shutdown().await;
    };
    tokio::join!(there, back);
}

/// Replaces bytes by as many others, wherever they are.
pub fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "lengths are told apart from the text");
    let found: Vec<usize> = (0..bytes.len().saturating_sub(from.len() - 1))
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    for at in found {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}
