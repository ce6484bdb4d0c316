//! Which row of the caches each slot is in.
//!
//! A run covers rows from the first on, so that what runs should be in the first ones: a hole costs what a sequence
//! costs. There is one row more than there are slots, so that a row can always be moved out of the way.

/// See the module.
#[derive(Debug)]
pub struct Rows {
    of_slot: Vec<usize>,
    /// The row of no slot.
    spare: usize,
}

/// A row whose contents go to another. They are made in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub from: usize,
    pub to: usize,
}

impl Rows {
    /// Each slot in its own row.
    pub fn new(slots: usize) -> Self {
        Self { of_slot: (0..slots).collect(), spare: slots }
    }

    /// Rows of so many slots.
    pub fn count(slots: usize) -> usize {
        slots + 1
    }

    /// The row of each slot.
    pub fn of_slots(&self) -> &[usize] {
        &self.of_slot
    }

    /// Plans the moves that bring the slots that run, `active`, to the first rows, where more than half of the rows of a
    /// run would be holes. `holds` says whether a row holds anything of value.
    pub fn compact(&mut self, active: &[i32], holds: impl Fn(usize) -> bool, moves: &mut Vec<Move>) {
        moves.clear();
        let count = active.len();
        let used = active.iter().map(|&slot| self.of_slot[slot as usize] + 1).max().unwrap_or(0);
        // The last row is never part of a run: the sizes of runs are those of slots.
        if used <= self.of_slot.len() && used <= 2 * count {
            return;
        }
        for slot in active.iter().map(|&slot| slot as usize) {
            let from = self.of_slot[slot];
            if from < count {
                continue;
            }
            let runs = |row: usize| active.iter().any(|&other| self.of_slot[other as usize] == row);
            // The spare row first: what makes room below then never goes to one of the first rows.
            let to = if self.spare < count {
                self.spare
            } else {
                (0..count).find(|&row| !runs(row)).unwrap_or(from)
            };
            if to == from {
                continue;
            }
            match self.of_slot.iter().position(|&row| row == to) {
                Some(other) if holds(to) => {
                    moves.push(Move { from: to, to: self.spare });
                    self.of_slot[other] = self.spare;
                    self.spare = from;
                }
                Some(other) => self.of_slot[other] = from,
                None => self.spare = from,
            }
            moves.push(Move { from, to });
            self.of_slot[slot] = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compacted(rows: &mut Rows, active: &[i32], holds: &[bool]) -> Vec<Move> {
        let mut moves = Vec::new();
        rows.compact(active, |row| holds[row], &mut moves);
        moves
    }

    #[test]
    fn few_holes_are_left_alone() {
        let mut rows = Rows::new(6);
        assert_eq!(compacted(&mut rows, &[1, 3], &[true; 7]), []);
        assert_eq!(compacted(&mut rows, &[0, 2, 5], &[true; 7]), []);
        assert_eq!(compacted(&mut rows, &[], &[true; 7]), []);
    }

    #[test]
    fn what_runs_comes_first_and_what_is_of_value_is_kept() {
        let mut rows = Rows::new(6);
        let moves = compacted(&mut rows, &[5, 1], &[true; 7]);
        assert_eq!(moves, [Move { from: 0, to: 6 }, Move { from: 5, to: 0 }]);
        assert_eq!(rows.of_slots(), [6, 1, 2, 3, 4, 0]);
        // Row 5 is free now.
        let moves = compacted(&mut rows, &[4], &[false, true, true, true, true, false, true]);
        assert_eq!(moves, [Move { from: 4, to: 0 }]);
        assert_eq!(rows.of_slots(), [6, 1, 2, 3, 0, 4]);
    }

    #[test]
    fn what_made_room_is_not_in_the_way_of_the_next() {
        let mut rows = Rows::new(4);
        compacted(&mut rows, &[2], &[true, true, true, true, false]);
        assert_eq!(rows.of_slots(), [4, 1, 0, 3]);
        let moves = compacted(&mut rows, &[0, 1, 3], &[true, true, false, true, true]);
        assert_eq!(moves, [Move { from: 4, to: 2 }, Move { from: 0, to: 4 }, Move { from: 3, to: 0 }]);
        assert_eq!(rows.of_slots(), [2, 1, 4, 0]);
    }

    #[test]
    fn nothing_runs_in_the_last_row() {
        let mut rows = Rows::new(2);
        compacted(&mut rows, &[1], &[true; 3]);
        assert_eq!(rows.of_slots(), [0, 1]);
        let mut rows = Rows { of_slot: vec![2, 1], spare: 0 };
        assert_eq!(compacted(&mut rows, &[0, 1], &[true; 3]), [Move { from: 2, to: 0 }]);
        assert_eq!(rows.of_slots(), [0, 1]);
    }

    proptest! {
        #[test]
        fn every_slot_keeps_its_contents(
            steps in prop::collection::vec(prop::collection::btree_set(0_usize..9, 0..9), 1..12),
            holding in prop::collection::vec(any::<bool>(), 9),
        ) {
            let mut rows = Rows::new(9);
            // The slot whose contents are in a row, if they are of value.
            let mut contents: Vec<Option<usize>> = (0..9).map(|slot| holding[slot].then_some(slot)).collect();
            contents.push(None);
            for active in steps {
                for &slot in &active {
                    contents[rows.of_slots()[slot]] = Some(slot);
                }
                let before: Vec<bool> = rows.of_slots().iter().map(|&row| contents[row].is_some()).collect();
                let slots: Vec<i32> = active.iter().map(|&slot| slot as i32).collect();
                let mut moves = Vec::new();
                rows.compact(&slots, |row| contents[row].is_some(), &mut moves);
                for Move { from, to } in moves {
                    prop_assert!(from != to);
                    contents[to] = contents[from].take();
                }
                for (slot, &row) in rows.of_slots().iter().enumerate() {
                    prop_assert_eq!(contents[row], before[slot].then_some(slot));
                    if active.contains(&slot) {
                        prop_assert_eq!(contents[row], Some(slot));
                        prop_assert!(row < 9 && row < 2 * active.len().max(1));
                    }
                }
                let mut all: Vec<usize> = rows.of_slots().to_vec();
                all.push(rows.spare);
                all.sort();
                prop_assert_eq!(all, (0..10).collect::<Vec<_>>());
            }
        }
    }
}
