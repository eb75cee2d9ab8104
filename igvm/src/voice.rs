//! What the command itself says.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Our own words on the way: a line each on stderr or in the log, and a spinner where somebody watches.
pub(crate) struct Voice {
    pub(crate) log: Option<File>,
    spinner: Option<ProgressBar>,
}

impl Voice {
    pub(crate) fn new(log: Option<&Path>) -> Result<Self, Failure> {
        let log = log
            .map(|path| {
                open_log(path).map_err(|error| Failure::File {
                    path: path.into(),
                    source: error,
                })
            })
            .transpose()?;
        let watched = log.is_none() && std::io::stderr().is_terminal();
        let spinner = watched.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Ok(Self { log, spinner })
    }

    pub(crate) fn say(&mut self, text: &str) {
        // Nobody can be told that nobody listens.
        match (&mut self.log, &self.spinner) {
            (Some(log), _) => drop(writeln!(log, "stockade: {text}")),
            (None, Some(bar)) => bar.println(format!("stockade: {text}")),
            (None, None) => eprintln!("stockade: {text}"),
        }
    }

    /// Says what takes long, to somebody who watches.
    pub(crate) fn working(&self, text: &'static str) {
        if let Some(bar) = &self.spinner {
            bar.set_message(text);
        }
    }

    pub(crate) fn fall_silent(&mut self) {
        if let Some(bar) = self.spinner.take() {
            bar.finish_and_clear();
        }
    }
}

/// Opens an empty log. Those of the running machine go to the same file, so each word goes behind whatever is last in it.
fn open_log(path: &Path) -> std::io::Result<File> {
    File::create(path)?;
    File::options().append(true).open(path)
}
