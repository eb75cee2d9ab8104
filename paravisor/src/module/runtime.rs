//! A module from its start to its end, and again: loaded, run, started anew when it fails, given up when it fails too often.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use stockade_boot::manifest::Payload;
use stockade_boot::payload::PayloadSource;

use super::call::Leave;
use super::channel::{Bell, Channel, ChannelError};
use super::load::{LoadError, Loader};
use super::memory::Memory;
use super::outside::Outside;
use super::process::{End, Process, Slice, Tools};
use super::records::RecordStore;
use super::space::Space;

/// How often a module is started again without having answered a request in between.
const MOST_RESTARTS: u32 = 4;

/// What a module may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pages of memory, those of its tables included.
    pub pages: usize,
    /// Processor time from one wait for a request to the next, in nanoseconds.
    pub busy_ns: u64,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its file in staging, with the digest of the manifest.
    pub file: Payload,
    /// Its arguments; the first is its name.
    pub arguments: Vec<String>,
    /// What it may use.
    pub limits: Limits,
}

impl Plan {
    /// Returns the module's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.arguments.first().map_or("module", String::as_str)
    }
}

/// What a module does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes on.
    More,
    /// It waits for a message, or for this time.
    Wait(u64),
    /// It is no more.
    Over,
}

/// A module as the scheduler sees it.
pub trait Body: Send {
    /// Gives it the processor until this time at the latest, as far as it can be told.
    fn turn(&mut self, until_ns: u64) -> Turn;
}

enum Stage {
    Loading(Box<(Loader, Memory)>),
    Running(Box<Process>),
    Over,
}

/// A module.
pub struct Runtime<S, P> {
    plan: Plan,
    source: P,
    space: S,
    channel: Arc<Channel>,
    records: Box<dyn RecordStore>,
    outside: Box<dyn Outside + Send>,
    stage: Stage,
    restarts: u32,
    busy_ns: u64,
}

impl<S: Space, P: PayloadSource + Send> Runtime<S, P> {
    /// Returns a module that is loaded from `source` into `space` when it has its first turns.
    #[must_use]
    pub fn new(
        plan: Plan,
        source: P,
        space: S,
        bell: Bell,
        records: Box<dyn RecordStore>,
        outside: Box<dyn Outside + Send>,
    ) -> Self {
        let mut runtime = Self {
            channel: Arc::new(Channel::new(bell)),
            stage: Stage::Over,
            restarts: 0,
            busy_ns: 0,
            plan,
            source,
            space,
            records,
            outside,
        };
        runtime.begin();
        runtime
    }

    /// Returns the module's channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    fn begin(&mut self) {
        self.space.clear();
        self.busy_ns = 0;
        let memory = Memory::new(self.plan.limits.pages);
        self.stage = Stage::Loading(Box::new((Loader::default(), memory)));
    }

    fn say(&mut self, text: &str) {
        self.outside.log(self.plan.name(), text);
    }

    fn load(&mut self, until_ns: u64) -> Result<Turn, LoadError> {
        while let Stage::Loading(loading) = &mut self.stage {
            let (loader, memory) = &mut **loading;
            let file = &self.plan.file;
            let step = loader.step(file, &mut self.source, &mut self.space, memory)?;
            if let Some(program) = step {
                let memory = core::mem::replace(memory, Memory::new(0));
                let mut random = [0; 16];
                // A canary that could be guessed protects as little as none: the program does not begin without it.
                if self.outside.random(&mut random).is_err() {
                    return Err(LoadError::NoEntropy);
                }
                let arguments = &self.plan.arguments;
                let process = Process::new(&program, arguments, memory, &mut self.space, random)?;
                self.stage = Stage::Running(Box::new(process));
            }
            if self.outside.monotonic_ns() >= until_ns {
                break;
            }
        }
        Ok(Turn::More)
    }

    fn run(&mut self, until_ns: u64) -> Turn {
        let Stage::Running(process) = &mut self.stage else {
            return Turn::Over;
        };
        let mut tools = Tools {
            name: self.plan.name(),
            channel: &self.channel,
            records: &mut *self.records,
            outside: &mut *self.outside,
        };
        let before = tools.outside.monotonic_ns();
        let slice = process.slice(&mut self.space, &mut tools, until_ns);
        let after = tools.outside.monotonic_ns();
        let was_answered = self.channel.take_progress();
        self.busy_ns = match slice {
            Slice::Wait(u64::MAX) => 0,
            _ => self.busy_ns.saturating_add(after.saturating_sub(before)),
        };
        if was_answered {
            self.restarts = 0;
        }
        match slice {
            Slice::More if self.busy_ns > self.plan.limits.busy_ns => self.end(End::OverTime),
            Slice::More => Turn::More,
            Slice::Wait(until_ns) => Turn::Wait(until_ns),
            Slice::Ended(end) => self.end(end),
        }
    }

    /// Ends the program, and begins it again if it failed and has not failed too often.
    fn end(&mut self, end: End) -> Turn {
        if let Stage::Running(process) = &mut self.stage {
            process.finish(&mut Tools {
                name: self.plan.name(),
                channel: &self.channel,
                records: &mut *self.records,
                outside: &mut *self.outside,
            });
        }
        self.channel.fail();
        if end == End::Left(Leave::Exit(0)) {
            self.say("has ended");
            return self.give_up(ChannelError::Closed);
        }
        if self.restarts >= MOST_RESTARTS {
            self.say(&format!("failed: {end}; it is not started again"));
            return self.give_up(ChannelError::Closed);
        }
        self.restarts += 1;
        let count = self.restarts;
        self.say(&format!(
            "failed: {end}; starting it again ({count} of {MOST_RESTARTS})"
        ));
        self.begin();
        Turn::More
    }

    fn give_up(&mut self, end: ChannelError) -> Turn {
        self.space.clear();
        self.stage = Stage::Over;
        self.channel.close(end);
        Turn::Over
    }
}

impl<S: Space, P: PayloadSource + Send> Body for Runtime<S, P> {
    fn turn(&mut self, until_ns: u64) -> Turn {
        // One that is just being loaded has not failed anybody yet.
        let is_dismissed = self.channel.take_dismissal();
        match &self.stage {
            Stage::Over => Turn::Over,
            Stage::Running(_) if is_dismissed => self.end(End::Dismissed),
            Stage::Running(_) => self.run(until_ns),
            Stage::Loading(_) => self.load(until_ns).unwrap_or_else(|error| {
                // What is wrong with the file is wrong the next time.
                self.say(&format!("is not started: {error}"));
                self.give_up(ChannelError::NotLoaded)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
