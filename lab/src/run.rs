//! Runs a program to its end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::interrupt;
use crate::process::LAST_LINES;
use crate::progress::Step;

/// Runs a command whose output matters only when it fails; its latest line is shown beside the step.
/// `what` completes the sentence "cannot …".
pub(crate) fn run_logged(command: &mut Command, step: &Step, what: &str) -> Result<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe().cannot(|| what.to_owned())?;
    let second = writer.try_clone().cannot(|| what.to_owned())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let child = command.spawn();
    // The command keeps its ends of the pipe open, and reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child
        .map_err(|error| Error::new(format!("cannot {what}: {shown} does not start: {error}")))?;
    let mut lines = Vec::new();
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        step.say(&line);
        lines.push(line);
    }
    let status = child.wait().cannot(|| what.to_owned())?;
    if status.success() {
        return Ok(());
    }
    if interrupt::requested() {
        return Err(Error::interrupted());
    }
    let end = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
    Err(Error::new(format!("cannot {what}: {shown} ended with {status}. It said:\n  {end}")))
}

/// Runs a short command, gives it `input`, and answers what it wrote to standard output.
pub(crate) fn output_of(command: &mut Command, input: &str, what: &str) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| Error::new(format!("cannot {what}: {shown} does not start: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing closes the pipe; whether it was content shows in its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().cannot(|| what.to_owned())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    if interrupt::requested() {
        return Err(Error::interrupted());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().replace('\n', "\n  ");
    Err(Error::new(format!(
        "cannot {what}: {shown} ended with {}. It said:\n  {said}",
        output.status
    )))
}

/// Runs a short command whose exit code is part of what it says, and answers its standard output.
pub(crate) fn said(command: &mut Command, what: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().cannot(|| what.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if text.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(Error::new(format!("cannot {what}: {said}")));
    }
    Ok(text)
}
