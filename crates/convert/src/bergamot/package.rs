//! The files of a Bergamot model.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use textgen_artifact::TOKENIZER_FILE;

use crate::error::{ConvertError, Result};

/// What was found in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub folder: PathBuf,
    /// The container with the weights.
    pub model: PathBuf,
    /// A Hugging Face tokenizer of the same vocabulary.
    pub tokenizer: Option<PathBuf>,
    /// The SentencePiece model.
    pub vocabulary: Option<PathBuf>,
}

impl Package {
    /// Looks for a Marian container (`*.intgemm*.bin`, `model*.bin`); none when there is not one.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let io_error = |source| ConvertError::Io { path: folder.display().to_string(), source };
        let (mut models, mut vocabularies, mut tokenizer) = (Vec::new(), Vec::new(), None);
        for entry in folder.read_dir().map_err(io_error)? {
            let path = entry.map_err(io_error)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name == TOKENIZER_FILE {
                tokenizer = Some(path);
            } else if name.ends_with(".spm") {
                vocabularies.push(path);
            } else if name.ends_with(".bin")
                && (name.contains(".intgemm") || name.starts_with("model") && is_marian(&path))
            {
                models.push(path);
            }
        }
        let several = |what: &str, files: &[PathBuf]| {
            let mut names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            names.sort_unstable();
            Err(ConvertError::Unsupported {
                path: folder.display().to_string(),
                what: what.to_owned(),
                got: names.join(", "),
                expected: "one".to_owned(),
            })
        };
        match models.as_slice() {
            [] => return Ok(None),
            [_] => {}
            _ => return several("the model", &models),
        }
        if vocabularies.len() > 1 {
            return several("the vocabulary", &vocabularies);
        }
        Ok(models.pop().map(|model| Self {
            folder: folder.to_owned(),
            model,
            tokenizer,
            vocabulary: vocabularies.pop(),
        }))
    }
}

/// Other programs have a `model.bin` too; Marian's begins with version 1 in 64 bits.
fn is_marian(path: &Path) -> bool {
    let mut version = [0; 8];
    File::open(path).and_then(|file| file.read_exact_at(&mut version, 0)).is_ok()
        && u64::from_le_bytes(version) == 1
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn the_shortlist_and_the_models_of_others_are_not_taken() {
        let marian = 1_u64.to_le_bytes();
        let dir = folder(&[
            ("lex.50.50.enpt.s2t.bin", &marian),
            ("model.enpt.intgemm.alphas.bin", b""),
            ("vocab.enpt.spm", b""),
        ]);
        let package = Package::find(dir.path()).unwrap().unwrap();
        assert_eq!(package.model, dir.path().join("model.enpt.intgemm.alphas.bin"));
        assert_eq!(package.vocabulary, Some(dir.path().join("vocab.enpt.spm")));
        assert_eq!(package.tokenizer, None);
        assert!(Package::find(folder(&[("model.bin", &marian)]).path()).unwrap().is_some());
        assert_eq!(Package::find(folder(&[("model.bin", &[6; 9])]).path()).unwrap(), None);
        assert_eq!(Package::find(folder(&[("pytorch_model.bin", &marian)]).path()).unwrap(), None);
    }

    #[test]
    fn two_models_or_two_vocabularies_are_refused_by_name() {
        let two = folder(&[("a.intgemm8.bin", b""), ("b.intgemm8.bin", b"")]);
        let error = Package::find(two.path()).unwrap_err().to_string();
        assert!(error.contains("a.intgemm8.bin, b.intgemm8.bin"), "{error}");
        let two = folder(&[("a.intgemm8.bin", b""), ("srcvocab.spm", b""), ("trgvocab.spm", b"")]);
        let error = Package::find(two.path()).unwrap_err().to_string();
        assert!(error.contains("the vocabulary is srcvocab.spm, trgvocab.spm"), "{error}");
    }
}
