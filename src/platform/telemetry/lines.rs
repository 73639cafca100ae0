//! Lines on the standard output, written by a thread of their own, many at a time.
//!
//! A system call per request for its access line would cost a tenth of the request, and a reader
//! that is slow would stop the requests.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others. Those that tell of a problem do not wait.
const WAIT: Duration = Duration::from_millis(50);

/// As much as one write takes well.
const ENOUGH_BYTES: usize = 64 * 1024;

/// If nobody reads the output, further lines are dropped, and counted.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// How long the end of the process waits for the last lines.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Where lines are left to be written. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines {
    shared: Arc<Shared>,
}

/// Writes what is left when dropped.
pub(super) struct Writer {
    lines: Lines,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    dropped: u64,
    is_urgent: bool,
    is_closed: bool,
}

impl Lines {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(mut output: impl Write + Send + 'static) -> io::Result<(Self, Writer)> {
        let lines = Self { shared: Arc::default() };
        let writing = lines.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        let thread = thread.spawn(move || writing.write_to(&mut output))?;
        Ok((lines.clone(), Writer { lines, thread }))
    }

    fn write_to(&self, output: &mut impl Write) {
        let mut bytes = Vec::with_capacity(ENOUGH_BYTES);
        loop {
            let is_waiting = |pending: &mut Pending| {
                !pending.is_closed && !pending.is_urgent && pending.bytes.len() < ENOUGH_BYTES
            };
            let waited = self.shared.changed.wait_timeout_while(self.lock(), WAIT, is_waiting);
            let (mut pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let (dropped, is_closed) = (std::mem::take(&mut pending.dropped), pending.is_closed);
            pending.is_urgent = false;
            std::mem::swap(&mut bytes, &mut pending.bytes);
            drop(pending);
            // Without a reader there is nobody to tell of it.
            let _ = output.write_all(&bytes);
            if dropped > 0 {
                let _ = writeln!(output, "{{\"level\":\"WARN\",\"dropped_lines\":{dropped}}}");
            }
            if !bytes.is_empty() {
                let _ = output.flush();
            }
            bytes.clear();
            if is_closed {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8], is_urgent: bool) {
        let mut pending = self.lock();
        if pending.bytes.len() + line.len() > MOST_BYTES {
            pending.dropped += 1;
            return;
        }
        let before = pending.bytes.len();
        pending.bytes.extend_from_slice(line);
        pending.is_urgent |= is_urgent;
        let is_enough = before < ENOUGH_BYTES && pending.bytes.len() >= ENOUGH_BYTES;
        drop(pending);
        if is_urgent || is_enough {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines.lock().is_closed = true;
        self.lines.shared.changed.notify_one();
        // A reader that has stopped reading must not keep the process from ending.
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < LAST_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One line on its way.
pub(super) struct Line<'l> {
    lines: &'l Lines,
    is_urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.push(bytes, self.is_urgent);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Line<'l> {
        Line { lines: self, is_urgent: true }
    }

    fn make_writer_for(&'l self, metadata: &Metadata<'_>) -> Line<'l> {
        Line { lines: self, is_urgent: *metadata.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    struct Output(Sender<Vec<u8>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(received: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(received.iter().flatten().collect()).unwrap()
    }

    #[test]
    fn every_line_is_written_in_order_and_the_last_when_it_ends() {
        let (sender, received) = channel();
        let (lines, writer) = Lines::start(Output(sender)).unwrap();
        let mut expected = String::new();
        for number in 0..20_000 {
            let line = format!("line {number}\n");
            lines.push(line.as_bytes(), number % 1_000 == 0);
            expected.push_str(&line);
        }
        drop(writer);
        assert!(all(&received) == expected);
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        let (sender, received) = channel();
        let lines = Lines { shared: Arc::default() };
        lines.push(&vec![b'x'; MOST_BYTES], false);
        lines.push(b"lost\n", false);
        lines.lock().is_closed = true;
        lines.write_to(&mut Output(sender));
        let written = all(&received);
        assert!(written.ends_with("{\"level\":\"WARN\",\"dropped_lines\":1}\n"));
        assert!(!written.contains("lost"));
    }
}
