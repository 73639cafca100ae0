//! The line between `cargo lab fault` and the lab that runs: a Unix socket that only its user can reach.
//! One request, one reply, each a line of JSON.

use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// A request is a few words.
const LONGEST: u64 = 4 * 1024;
/// A client sends its request at once; nobody is kept waiting for one that does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than a server takes to start, which is what a request can wait for.
const REPLY_WITHIN: Duration = Duration::from_secs(120);

/// What was typed, and whom to tell what became of it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) words: Vec<String>,
    reply: Sender<Reply>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done(String),
    Refused(String),
}

impl Request {
    pub(crate) fn answer(self, outcome: Result<String>) {
        let reply = match outcome {
            Ok(text) => Reply::Done(text),
            Err(error) => Reply::Refused(error.to_string()),
        };
        // Who asked may have gone.
        let _ = self.reply.send(reply);
    }
}

/// The lab's end. Its socket goes with it.
#[derive(Debug)]
pub(crate) struct Control {
    requests: Receiver<Request>,
    dir: PathBuf,
}

impl Control {
    /// Listens in the lab's directory, which this process holds.
    pub(crate) fn listen(lab: &Path) -> Result<Self> {
        close(lab);
        let dir = lab.join(DIR);
        // The directory is closed to others before there is a socket in it.
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .cannot(|| format!("create {}", dir.display()))?;
        let (_held, path) = socket(&dir)?;
        let listener =
            UnixListener::bind(&path).cannot(|| format!("listen in {}", dir.display()))?;
        let (sender, requests) = channel();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let sender = sender.clone();
                // One that says nothing must not keep others waiting; and it says it within its time.
                thread::spawn(move || serve(&client, &sender));
            }
        });
        Ok(Self { requests, dir: lab.to_owned() })
    }

    /// The next request, if one comes within this time.
    pub(crate) fn next(&self, within: Duration) -> Option<Request> {
        match self.requests.recv_timeout(within) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(within);
                None
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        close(&self.dir);
    }
}

/// Asks the lab that runs in this directory, and answers what it says. `None` if it does not listen.
pub(crate) fn ask(lab: &Path, words: &[String]) -> Result<Option<String>> {
    let Ok((_held, path)) = socket(&lab.join(DIR)) else {
        return Ok(None);
    };
    let Ok(mut connection) = UnixStream::connect(path) else {
        return Ok(None);
    };
    let exchange = || -> std::io::Result<String> {
        connection.set_read_timeout(Some(REPLY_WITHIN))?;
        connection.write_all(format!("{}\n", serde_json::to_string(words)?).as_bytes())?;
        let mut reply = String::new();
        BufReader::new(&connection).read_line(&mut reply)?;
        Ok(reply)
    };
    let reply = { exchange }().cannot(|| "ask the running lab".to_owned())?;
    match serde_json::from_str(&reply).cannot(|| "understand the running lab".to_owned())? {
        Reply::Done(text) => Ok(Some(text)),
        Reply::Refused(message) => Err(Error::new(message)),
    }
}

fn serve(mut client: &UnixStream, requests: &Sender<Request>) {
    let asked = read(client).and_then(|words| {
        let (reply, outcome) = channel();
        let ended = || Error::new("the lab is stopping");
        requests.send(Request { words, reply }).map_err(|_| ended())?;
        outcome.recv().map_err(|_| ended())
    });
    let reply = asked.unwrap_or_else(|error| Reply::Refused(error.to_string()));
    if let Ok(json) = serde_json::to_string(&reply) {
        // Who asked may have gone.
        let _ = client.write_all(format!("{json}\n").as_bytes());
    }
}

fn read(client: &UnixStream) -> Result<Vec<String>> {
    client.set_read_timeout(Some(PATIENCE)).cannot(|| "wait for a request".to_owned())?;
    let mut line = String::new();
    let mut limited = BufReader::new(client.take(LONGEST));
    limited.read_line(&mut line).cannot(|| "read the request".to_owned())?;
    serde_json::from_str(&line)
        .map_err(|_| Error::new("the request is no line of JSON with a list of words"))
}

const DIR: &str = "control";

/// A path to the socket through the open directory, for the path of a socket may have 107 bytes at most.
/// It is good for as long as the directory is held open.
fn socket(dir: &Path) -> Result<(File, PathBuf)> {
    let held = File::open(dir).cannot(|| format!("open {}", dir.display()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/socket", held.as_raw_fd()));
    Ok((held, path))
}

fn close(lab: &Path) {
    // It is there only while a lab listens, or when one was killed.
    let _ = fs::remove_dir_all(lab.join(DIR));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::thread;
    use std::time::Duration;

    use super::{Control, DIR, LONGEST, ask, socket};
    use crate::error::Error;

    /// Deeper than the path of a socket may be long.
    fn dir(test: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("lab-control-{test}-{}", std::process::id()));
        let deep = root.join("a-directory-with-a-name-that-is-rather-long".repeat(4));
        fs::create_dir_all(&deep).expect("it can be made");
        deep
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_asked_is_answered_and_refusals_are_errors() {
        let dir = dir("answers");
        assert!(ask(&dir, &words("redis down")).expect("nobody listens").is_none());
        let control = Control::listen(&dir).expect("it listens");
        let mode = fs::metadata(dir.join(DIR)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&dir, &words("redis down")));
            let request = control.next(Duration::from_secs(20)).expect("it was sent");
            assert_eq!(request.words, ["redis", "down"]);
            request.answer(Ok("two\nlines".to_owned()));
            let answer = asked.join().expect("it ends").expect("it was done");
            assert_eq!(answer.as_deref(), Some("two\nlines"));

            let asked = scope.spawn(|| ask(&dir, &words("x")));
            let request = control.next(Duration::from_secs(20)).expect("it was sent");
            request.answer(Err(Error::new("no").way_out("yes")));
            let error = asked.join().expect("it ends").expect_err("it was refused");
            assert_eq!(error.to_string(), "no\n  → yes");
        });
        drop(control);
        assert!(ask(&dir, &words("redis down")).expect("nobody listens").is_none());
    }

    #[test]
    fn nonsense_and_silence_disturb_nobody() {
        let dir = dir("nonsense");
        let control = Control::listen(&dir).expect("it listens");
        let (_held, path) = socket(&dir.join(DIR)).expect("it is there");
        let mut silent = UnixStream::connect(&path).expect("it listens");
        let endless = "x".repeat(usize::try_from(LONGEST).expect("it is small") + 1);
        for nonsense in ["\n", "{}\n", "[1]\n", endless.as_str()] {
            let mut client = UnixStream::connect(&path).expect("it listens");
            client.write_all(nonsense.as_bytes()).expect("it reads");
            let mut reply = String::new();
            // The rest of what is too long makes it a reset, after the reply.
            let _ = client.read_to_string(&mut reply);
            assert!(reply.contains("no line of JSON"), "{nonsense:.20}: {reply}");
        }
        let mut reply = String::new();
        silent.read_to_string(&mut reply).expect("it is told, and let go");
        assert!(reply.contains("cannot read the request"), "{reply}");
        assert!(control.next(Duration::ZERO).is_none());
    }
}
