//! Texts whose tokens are to be kept.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use crate::error::{ConvertError, Result};

/// Gives each text of a file of UTF-8, one text a line, to `each`; empty lines are no texts.
pub fn for_each_text(path: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(ConvertError::io(path))?;
    let mut reader = BufReader::new(file);
    let (mut line, mut number) = (Vec::new(), 0_usize);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(ConvertError::io(path))? == 0 {
            return Ok(());
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match str::from_utf8(text) {
            Ok("") => {}
            Ok(text) => each(text)?,
            Err(_) => {
                return Err(ConvertError::Trim {
                    path: path.display().to_string(),
                    what: format!("line {number}"),
                    got: "not UTF-8".to_owned(),
                    expected: "UTF-8, one text a line".to_owned(),
                    remedy: "give the texts in this form",
                });
            }
        }
    }
}
