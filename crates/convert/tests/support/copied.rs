//! A copy of a checkpoint, which may be changed.

#![allow(dead_code, reason = "each test file takes its part")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// The copy, in a folder that has room beside it.
pub struct Copied {
    pub dir: TempDir,
}

impl Copied {
    pub fn of(fixture: &Path) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(copy.source()).unwrap();
        for file in fs::read_dir(fixture).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.source().join(file.file_name())).unwrap();
        }
        copy
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }
}
