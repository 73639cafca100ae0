//! Shows what is being done: spinners on a terminal, plain lines with the time elsewhere.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// ANSI colours.
const GREEN: u8 = 32;
const RED: u8 = 31;

/// The progress of one command.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    began: Instant,
}

impl Progress {
    /// Progress on standard error.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bars: std::io::stderr().is_terminal().then(MultiProgress::new),
            began: Instant::now(),
        }
    }

    /// Begins a step; it is over, without success, when the value is dropped before [`Step::done`].
    pub fn step(&self, text: impl Into<Cow<'static, str>>) -> Step {
        let text = text.into();
        let spinner = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_style(style()));
            bar.set_prefix(text.clone());
            bar.enable_steady_tick(Duration::from_millis(80));
            (bars.clone(), bar)
        });
        Step {
            text,
            spinner,
            began: Instant::now(),
            command_began: self.began,
            is_done: Cell::new(false),
        }
    }

    /// A sentence that is no step, above the running spinners.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{text}")),
            None => eprintln!("{} {text}", stamp(self.began)),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One step.
#[derive(Debug)]
pub struct Step {
    text: Cow<'static, str>,
    spinner: Option<(MultiProgress, ProgressBar)>,
    began: Instant,
    command_began: Instant,
    is_done: Cell<bool>,
}

impl Step {
    /// What the step is doing just now; shown on a terminal only.
    pub fn say(&self, detail: &str) {
        if let Some((_, bar)) = &self.spinner {
            bar.set_message(detail.to_owned());
        }
    }

    /// Ends the step.
    pub fn done(&self) {
        self.end("✓", GREEN);
    }

    fn end(&self, mark: &str, colour: u8) {
        self.is_done.set(true);
        let line = format!("{} ({:.1} s)", self.text, self.began.elapsed().as_secs_f32());
        match &self.spinner {
            // Only what runs is drawn again and again; what has ended is a line like any other.
            Some((bars, bar)) => {
                bar.finish_and_clear();
                bars.remove(bar);
                bars.suspend(|| eprintln!("\x1b[{colour}m{mark}\x1b[0m {line}"));
            }
            None => eprintln!("{} {mark} {line}", stamp(self.command_began)),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.is_done.get() {
            self.end("✗", RED);
        }
    }
}

fn stamp(began: Instant) -> String {
    format!("[{:6.1} s]", began.elapsed().as_secs_f32())
}

fn style() -> ProgressStyle {
    // The template is a constant; a mistake in it costs its looks only.
    ProgressStyle::with_template("{spinner:.cyan} {prefix} {wide_msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}
