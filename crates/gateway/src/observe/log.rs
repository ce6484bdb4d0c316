//! The log: to standard error, or to a file a day of which some are kept. No text of a client is in it, and what a
//! client chooses, as its path, is escaped.

use tracing_appender::{non_blocking::WorkerGuard, rolling};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt::writer::BoxMakeWriter};

use crate::settings::{LogFormat, Operation};

/// Starts it. What is returned writes what is left when it is dropped.
pub fn start(operation: &Operation) -> Result<Option<WorkerGuard>, String> {
    let filter = filter(&operation.log_level)?;
    let (writer, guard) = match &operation.log_dir {
        None => (BoxMakeWriter::new(std::io::stderr), None),
        Some(folder) => {
            // The rolling files would make it too, but complain first that it is not there.
            std::fs::create_dir_all(folder)
                .map_err(|error| format!("log_dir: {}: {error}", folder.display()))?;
            let files = rolling::Builder::new()
                .rotation(rolling::Rotation::DAILY)
                .filename_prefix("textgen-gateway")
                .filename_suffix("log")
                .max_log_files(operation.log_keep_days)
                .build(folder)
                .map_err(|error| format!("log_dir: {}: {error}", folder.display()))?;
            let (writer, guard) = tracing_appender::non_blocking(files);
            (BoxMakeWriter::new(writer), Some(guard))
        }
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    match operation.log_format {
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
        LogFormat::Text => lines.init(),
    }
    Ok(guard)
}

/// One word is a level: as a filter it would be the name of a module, and silence all others.
fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!("log_level: got {level:?}, expected error, warn, info, debug, trace or a filter: {error}")
    };
    if !level.contains(['=', ',']) {
        let level: LevelFilter = level.parse().map_err(|error| wrong(&error))?;
        return Ok(EnvFilter::default().add_directive(level.into()));
    }
    level.parse().map_err(|error| wrong(&error))
}
