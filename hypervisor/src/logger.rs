//! Herald's log: one line, one frame.

use crate::link;
use abi::config::LogLevel;
use abi::link::Channel;
use core::fmt::Write;
use heapless::String;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// Longest line, in bytes; what is longer is cut.
const LINE: usize = 512;

struct Logger;

impl Log for Logger {
    /// What a library finds worth an Info is a detail of Herald's.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() != Level::Info
            || metadata.target().starts_with("herald")
            || log::max_level() >= LevelFilter::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::<LINE>::new();
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        // A line that does not fit is cut: the pieces before the one that overflows are kept.
        let _ = write!(line, "herald: {level}{}", record.args());
        link::send(Channel::Log as u8, line.as_bytes());
    }

    fn flush(&self) {}
}

/// Starts the log at level Info: the configuration is not known yet.
pub(crate) fn init() {
    // Fails only if there is a logger already.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

/// Sets the level that the configuration asks for.
pub(crate) fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    });
}
