//! Some rows of a checkpoint's matrices in place of all.

use std::{collections::BTreeMap, ops::Range, path::Path};

use super::{Matrix, TensorSource};
use crate::error::{ConvertError, Result};

/// Rows that stay, in their old order; they get new numbers from 0 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSelection {
    /// Old numbers, rising.
    rows: Vec<u32>,
}

impl FromIterator<u32> for RowSelection {
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let mut rows: Vec<u32> = rows.into_iter().collect();
        rows.sort_unstable();
        rows.dedup();
        Self { rows }
    }
}

impl RowSelection {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Old numbers in the order of the new ones.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// New number of an old row; none for one that does not stay.
    pub fn place(&self, row: u32) -> Option<u32> {
        self.rows.binary_search(&row).ok().map(|place| place as u32)
    }
}

/// A checkpoint of whose named matrices some rows are left. The rest is as it was; still nothing stays in memory.
pub struct SelectedRows {
    source: Box<dyn TensorSource>,
    selection: RowSelection,
    matrices: BTreeMap<String, Shapes>,
}

struct Shapes {
    all: [usize; 2],
    selected: [usize; 2],
}

impl SelectedRows {
    /// Selects the same rows of each of `matrices`.
    ///
    /// # Panics
    /// When one of them is no matrix of `source`, or has fewer rows.
    pub fn new<'n>(
        source: Box<dyn TensorSource>,
        matrices: impl IntoIterator<Item = &'n String>,
        selection: RowSelection,
    ) -> Self {
        let shapes = |name: &String| {
            let Some(&[rows, columns]) = source.shape(name) else { panic!("`{name}` is no matrix") };
            assert!(selection.rows.last().is_none_or(|&row| (row as usize) < rows), "rows of `{name}`");
            Shapes { all: [rows, columns], selected: [selection.len(), columns] }
        };
        let matrices = matrices.into_iter().map(|name| (name.clone(), shapes(name))).collect();
        Self { source, selection, matrices }
    }
}

impl TensorSource for SelectedRows {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.source.names()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        match self.matrices.get(name) {
            Some(shapes) => Some(&shapes.selected),
            None => self.source.shape(name),
        }
    }

    fn rows(&self, name: &str, shape: [usize; 2], range: Range<usize>) -> Result<Matrix> {
        let Some(shapes) = self.matrices.get(name) else { return self.source.rows(name, shape, range) };
        if shape != shapes.selected {
            return Err(ConvertError::Shape {
                path: self.path().display().to_string(),
                tensor: name.to_owned(),
                got: shapes.selected.to_vec(),
                expected: shape.to_vec(),
            });
        }
        // Neighbours are read at once.
        let runs = self.selection.rows[range].chunk_by(|a, b| a + 1 == *b);
        let parts = runs.map(|run| {
            let first = run[0] as usize;
            self.source.rows(name, shapes.all, first..first + run.len())
        });
        Ok(Matrix::stack(shape[1], parts.collect::<Result<_>>()?))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.source.vector(name, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weight;

    /// One matrix `m` whose values are `10 · row + column`, one `other`, and a vector.
    struct Counted {
        quantized: bool,
    }

    const ROWS: usize = 7;

    impl TensorSource for Counted {
        fn path(&self) -> &Path {
            Path::new("counted")
        }

        fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
            Box::new(["m", "other", "v"].into_iter())
        }

        fn shape(&self, name: &str) -> Option<&[usize]> {
            match name {
                "m" | "other" => Some(&[ROWS, 2]),
                "v" => Some(&[2]),
                _ => None,
            }
        }

        fn rows(&self, _: &str, shape: [usize; 2], range: Range<usize>) -> Result<Matrix> {
            assert_eq!(shape, [ROWS, 2]);
            let rows = range.len();
            Ok(if self.quantized {
                let scales = range.clone().map(|row| row as f32).collect();
                Matrix::quantized(rows, 2, range.flat_map(|row| [row as i8, -1]).collect(), scales)
            } else {
                let value = |row: usize, column: usize| (10 * row + column) as f32;
                Matrix::new(rows, 2, range.flat_map(|row| [value(row, 0), value(row, 1)]).collect())
            })
        }

        fn vector(&self, _: &str, len: usize) -> Result<Vec<f32>> {
            Ok(vec![1.0; len])
        }
    }

    fn selected(quantized: bool) -> SelectedRows {
        let selection = RowSelection::from_iter([6, 1, 2, 4, 2]);
        SelectedRows::new(Box::new(Counted { quantized }), [&"m".to_owned()], selection)
    }

    #[test]
    fn rows_are_renumbered_in_their_old_order() {
        let selection = RowSelection::from_iter([6, 1, 2, 4, 2]);
        assert_eq!(selection.rows(), [1, 2, 4, 6]);
        assert_eq!([0, 1, 4, 6, 7].map(|row| selection.place(row)), [None, Some(0), Some(2), Some(3), None]);
    }

    #[test]
    fn the_selected_rows_take_the_place_of_all() {
        let source = selected(false);
        assert_eq!(source.shape("m"), Some(&[4, 2][..]));
        let rows = |range| source.rows("m", [4, 2], range).unwrap().into_f32();
        assert_eq!(rows(0..4), [10.0, 11.0, 20.0, 21.0, 40.0, 41.0, 60.0, 61.0]);
        assert_eq!(rows(1..3), [20.0, 21.0, 40.0, 41.0]);
        assert!(rows(2..2).is_empty());
        assert!(source.rows("m", [ROWS, 2], 0..1).is_err());
        let weight = Weight::stored(&source, "m", 4, 2);
        assert_eq!(weight.to_f32().unwrap(), rows(0..4));
    }

    #[test]
    fn quantized_rows_stay_as_they_are() {
        let (values, scales) = selected(true).rows("m", [4, 2], 1..4).unwrap().into_int8();
        assert_eq!((values, scales), (vec![2, -1, 4, -1, 6, -1], vec![2.0, 4.0, 6.0]));
    }

    #[test]
    fn other_tensors_are_whole() {
        let source = selected(false);
        assert_eq!(source.shape("other"), Some(&[ROWS, 2][..]));
        assert_eq!(source.rows("other", [ROWS, 2], 0..1).unwrap().into_f32(), [0.0, 1.0]);
        assert_eq!(source.vector("v", 2).unwrap(), [1.0, 1.0]);
    }
}
