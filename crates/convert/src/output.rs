//! The place of the result: complete, or not there at all.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{self, Path, PathBuf},
};

use tempfile::TempDir;
use textgen_artifact::MANIFEST_FILE;

use crate::error::{ConvertError, Result};

/// Keeps an empty folder in a repository of git; it stays beside the result.
const PLACEHOLDER: &str = ".gitkeep";

/// A folder beside the target, which takes the target's place when it is complete. Dropped before that, it
/// leaves nothing behind.
pub struct Staging {
    folder: TempDir,
    target: PathBuf,
}

impl Staging {
    /// Checks the target and makes the folder. With `force` an earlier result may be replaced, and nothing
    /// else: a mistyped path must not cost anyone a folder of other things.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        let io_error = |source| ConvertError::Io { path: target.display().to_string(), source };
        let unusable = |reason: &str| ConvertError::OutputUnusable {
            path: target.display().to_string(),
            reason: reason.to_owned(),
        };
        // Through links, so that the folder is replaced rather than the link to it.
        let place = match target.canonicalize() {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path::absolute(target).map_err(io_error)?
            }
            Err(error) => return Err(io_error(error)),
        };
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(unusable("it has no name of its own"));
        };
        if place.exists() {
            if !place.is_dir() {
                return Err(unusable("it is a file"));
            }
            let names = fs::read_dir(&place).map_err(io_error)?.map(|entry| Ok(entry?.file_name()));
            let names = names.collect::<io::Result<Vec<_>>>().map_err(io_error)?;
            if names.iter().any(|name| name != PLACEHOLDER) {
                if !force {
                    return Err(ConvertError::OutputExists { path: target.display().to_string() });
                }
                if !is_earlier_result(&place) {
                    return Err(unusable("it holds something other than a converted model"));
                }
            }
        }
        fs::create_dir_all(parent).map_err(ConvertError::io(parent))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            // As any new folder: the server may run as another user.
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .map_err(ConvertError::io(parent))?;
        Ok(Self { folder, target: place })
    }

    /// Where to write.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the folder in the target's place, and returns that.
    pub fn publish(self) -> Result<PathBuf> {
        let Self { folder, target } = self;
        let placeholder = target.join(PLACEHOLDER);
        if placeholder.is_file() {
            let io_error = |source| ConvertError::Io { path: placeholder.display().to_string(), source };
            fs::copy(&placeholder, folder.path().join(PLACEHOLDER)).map_err(io_error)?;
            if !is_earlier_result(&target) {
                // Only an empty folder can be replaced by renaming.
                fs::remove_file(&placeholder).map_err(io_error)?;
            }
        }
        let earlier = if is_earlier_result(&target) {
            // Kept until the new one stands.
            let parent = target.parent().unwrap_or(&target);
            let aside = tempfile::Builder::new()
                .prefix(".replaced.")
                .tempdir_in(parent)
                .map_err(ConvertError::io(parent))?;
            let kept = aside.path().join("earlier");
            fs::rename(&target, &kept).map_err(ConvertError::io(&target))?;
            Some((aside, kept))
        } else {
            None
        };
        if let Err(source) = fs::rename(folder.path(), &target) {
            if let Some((aside, kept)) = earlier
                && fs::rename(&kept, &target).is_err()
            {
                // It cannot go back: better left where it is than deleted.
                let _ = aside.keep();
            }
            return Err(ConvertError::Io { path: target.display().to_string(), source });
        }
        // It is the target now, and no longer temporary.
        let _ = folder.keep();
        Ok(target)
    }
}

/// True for an artifact.
fn is_earlier_result(dir: &Path) -> bool {
    dir.join(MANIFEST_FILE).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(target: &Path, force: bool, manifest: &str) -> Result<PathBuf> {
        let staging = Staging::create(target, force)?;
        fs::write(staging.dir().join(MANIFEST_FILE), manifest).unwrap();
        staging.publish()
    }

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_result_appears_whole_and_nothing_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new/model");
        stage(&target, false, "1").unwrap();
        assert_eq!(fs::read_to_string(target.join(MANIFEST_FILE)).unwrap(), "1");
        assert_eq!(names(target.parent().unwrap()), ["model"]);
    }

    #[test]
    fn what_is_dropped_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("model");
        let staging = Staging::create(&target, false).unwrap();
        fs::write(staging.dir().join("half"), "").unwrap();
        drop(staging);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn an_earlier_result_is_replaced_only_by_force() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("model");
        stage(&target, false, "1").unwrap();
        assert!(matches!(stage(&target, false, "2"), Err(ConvertError::OutputExists { .. })));
        assert_eq!(fs::read_to_string(target.join(MANIFEST_FILE)).unwrap(), "1");
        stage(&target, true, "3").unwrap();
        assert_eq!(fs::read_to_string(target.join(MANIFEST_FILE)).unwrap(), "3");
        assert_eq!(names(root.path()), ["model"]);
    }

    #[test]
    fn a_placeholder_is_nothing_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("1");
        fs::create_dir(&target).unwrap();
        fs::write(target.join(PLACEHOLDER), "").unwrap();
        for (force, manifest) in [(false, "1"), (true, "2")] {
            stage(&target, force, manifest).unwrap();
            assert_eq!(fs::read_to_string(target.join(MANIFEST_FILE)).unwrap(), manifest);
            assert!(target.join(PLACEHOLDER).is_file());
        }
        assert_eq!(names(root.path()), ["1"]);
    }

    #[test]
    fn other_things_are_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("letter.txt"), "dear").unwrap();
        assert!(matches!(stage(root.path(), true, ""), Err(ConvertError::OutputUnusable { .. })));
        let file = root.path().join("letter.txt");
        assert!(matches!(stage(&file, true, ""), Err(ConvertError::OutputUnusable { .. })));
        assert_eq!(names(root.path()), ["letter.txt"]);
    }

    #[test]
    fn a_link_to_an_empty_folder_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (folder, link) = (root.path().join("folder"), root.path().join("link"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        stage(&link, false, "1").unwrap();
        assert!(link.is_symlink() && folder.join(MANIFEST_FILE).is_file());
    }
}
