//! The `log` facade, into Triton's log.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::{error::check, strings::to_host, sys};

struct TritonLogger;

/// Sends the records of the `log` facade to the host from now on. The library outlives its models, so a
/// second call finds the logger in place.
pub fn install_logger() {
    if log::set_logger(&TritonLogger).is_ok() {
        // Debug records pass only while the server runs with --log-verbose, see `enabled`.
        log::set_max_level(LevelFilter::Debug);
    }
}

fn host_level(level: Level) -> sys::TRITONSERVER_LogLevel {
    match level {
        Level::Error => sys::TRITONSERVER_LogLevel::TRITONSERVER_LOG_ERROR,
        Level::Warn => sys::TRITONSERVER_LogLevel::TRITONSERVER_LOG_WARN,
        Level::Info => sys::TRITONSERVER_LogLevel::TRITONSERVER_LOG_INFO,
        Level::Debug | Level::Trace => sys::TRITONSERVER_LogLevel::TRITONSERVER_LOG_VERBOSE,
    }
}

impl Log for TritonLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // SAFETY: reads a setting of the server.
        unsafe { sys::TRITONSERVER_LogIsEnabled(host_level(metadata.level())) }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A request id may hold anything; a line break in it must not forge a line of the log.
        let message = record.args().to_string().replace(|c: char| c.is_control(), " ");
        let message = to_host(&message);
        let file = to_host(record.file().unwrap_or(record.target()));
        let line = i32::try_from(record.line().unwrap_or(0)).unwrap_or(0);
        // SAFETY: both strings are copied during the call.
        let error = unsafe {
            sys::TRITONSERVER_LogMessage(host_level(record.level()), file.as_ptr(), line, message.as_ptr())
        };
        // A log that fails has nowhere to say so.
        let _ = check(error);
    }

    fn flush(&self) {}
}
