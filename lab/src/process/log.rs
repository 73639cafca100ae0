//! Reading the end of a log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Logs can be long; their last lines are within this many bytes from the end.
const WINDOW: u64 = 64 * 1024;

/// The last lines of a file, each indented by two blanks; says so when there are none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = read_end(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        return "  (nothing was written)".to_owned();
    }
    let last: Vec<String> =
        all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}")).collect();
    last.join("\n")
}

fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn only_the_last_lines_are_shown() {
        let path = std::env::temp_dir().join(format!("lab-tail-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo\nthree\n").expect("a temporary file can be written");
        let shown = tail(&path, 2);
        std::fs::remove_file(&path).expect("it can be removed");
        assert_eq!(shown, "  two\n  three");
    }

    #[test]
    fn a_missing_log_is_no_error() {
        assert_eq!(tail("/nonexistent/log".as_ref(), 3), "  (nothing was written)");
    }
}
