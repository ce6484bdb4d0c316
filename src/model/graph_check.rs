//! Holds a graph against the manifest.

use std::path::Path;

use ort::{session::Session, value::Outlet};

use crate::error::{Error, Result};

/// A dimension that a graph leaves open.
pub const ANY: usize = usize::MAX;

/// See the module.
pub struct GraphCheck<'a> {
    /// File of the graph.
    pub path: &'a Path,
    pub session: &'a Session,
}

impl GraphCheck<'_> {
    pub fn input(&self, name: &str, expected: &[usize]) -> Result<()> {
        self.tensor("input", self.session.inputs(), name, expected)
    }

    pub fn output(&self, name: &str, expected: &[usize]) -> Result<()> {
        self.tensor("output", self.session.outputs(), name, expected)
    }

    fn tensor(&self, kind: &str, tensors: &[Outlet], name: &str, expected: &[usize]) -> Result<()> {
        let shape = tensors
            .iter()
            .find(|tensor| tensor.name() == name)
            .and_then(|tensor| tensor.dtype().tensor_shape())
            .map(|shape| shape.to_vec());
        // A dimension that is not a size is open too.
        let same = |got: &i64, expected: &usize| {
            *expected == ANY || usize::try_from(*got).is_ok_and(|got| got == *expected) || *got < 0
        };
        let fits = shape.as_ref().is_some_and(|shape| {
            shape.len() == expected.len()
                && shape.iter().zip(expected).all(|(got, expected)| same(got, expected))
        });
        if fits {
            return Ok(());
        }
        let got = shape.map_or("none".to_owned(), |shape| format!("{shape:?}"));
        let expected: Vec<i64> =
            expected.iter().map(|&dim| if dim == ANY { -1 } else { dim as i64 }).collect();
        Err(Error::invalid_argument(format!(
            "{}: {kind} {name}: got {got}, the manifest expects {expected:?} (-1 is any); the files are not of one \
             artifact, convert the model again",
            self.path.display()
        )))
    }
}
