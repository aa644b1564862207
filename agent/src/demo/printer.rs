//! How the demo's story looks.
use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::Output;

const BOLD: &str = "\x1b[1m";
const HEADING: &str = "\x1b[1;36m";
const FAINT: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Prints the story to one stream and the figures to another.
pub(super) struct Printer {
    story: Box<dyn Write>,
    colour: bool,
    /// The figures are asked for.
    figures: bool,
    steps: usize,
}

impl Printer {
    /// The story goes to standard output, or to standard error where the figures are the output.
    pub(super) fn standard(output: Output) -> Self {
        let (story, terminal): (Box<dyn Write>, bool) = match output {
            Output::Text => (Box::new(std::io::stdout()), std::io::stdout().is_terminal()),
            Output::Json => (Box::new(std::io::stderr()), std::io::stderr().is_terminal()),
        };
        // https://no-color.org
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { figures: output == Output::Json, ..Self::new(story, colour) }
    }

    pub(super) fn new(story: Box<dyn Write>, colour: bool) -> Self {
        Self { story, colour, figures: false, steps: 0 }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let text = format!("{}. {title}", self.steps);
        self.line("");
        self.styled(HEADING, &text);
        self.styled(HEADING, &"-".repeat(text.chars().count()));
    }

    /// Says something in words.
    pub(super) fn say(&mut self, text: &str) {
        for line in text.lines() {
            self.line(line);
        }
    }

    /// A command as its operator types it, perhaps over several lines.
    pub(super) fn command(&mut self, place: &str, command: &str) {
        for (index, line) in command.lines().enumerate() {
            let before =
                if index == 0 { format!("{place}$ ") } else { " ".repeat(place.chars().count() + 4) };
            self.styled(BOLD, &format!("  {before}{line}"));
        }
    }

    /// What came back.
    pub(super) fn output(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!("      {line}"));
        }
    }

    /// Something beside the story.
    pub(super) fn aside(&mut self, text: &str) {
        for line in text.lines() {
            self.styled(FAINT, &format!("      {line}"));
        }
    }

    /// Something that was measured, a label before it.
    pub(super) fn figure(&mut self, label: &str, value: &str) {
        self.line(&format!("  {label:<36} {value}"));
    }

    /// Prints the figures as one object on standard output, if that was asked for.
    pub(super) fn finish<T: Serialize>(&mut self, figures: &T) {
        if !self.figures {
            return;
        }
        if let Ok(text) = serde_json::to_string(figures) {
            // A reader that has gone wants no figures.
            let _gone = writeln!(std::io::stdout(), "{text}");
        }
    }

    fn styled(&mut self, style: &str, text: &str) {
        if self.colour {
            self.line(&format!("{style}{text}{PLAIN}"));
        } else {
            self.line(text);
        }
    }

    fn line(&mut self, text: &str) {
        // Without a reader the demo goes on to its end, which removes it.
        let _gone = writeln!(self.story, "{text}").and_then(|()| self.story.flush());
    }
}
