//! Numbered places for encoded sources: which are free, which are taken.

/// Slots `0 .. capacity`, handed out lowest first so that little memory is touched when few are in use.
#[derive(Debug)]
struct SlotPool {
    /// A heap would be quicker for thousands of slots; there are tens.
    taken: Vec<bool>,
}

impl SlotPool {
    fn new(capacity: usize) -> Self {
        Self { taken: vec![false; capacity] }
    }

    fn take(&mut self) -> Option<usize> {
        let slot = self.taken.iter().position(|taken| !taken)?;
        self.taken[slot] = true;
        Some(slot)
    }

    /// Gives back what [`SlotPool::take`] gave.
    fn give(&mut self, slot: usize) {
        debug_assert!(self.taken[slot], "slot {slot} was not taken");
        self.taken[slot] = false;
    }
}

/// Slots that several holders share: the encoded source of one prompt, read by all of its samples.
#[derive(Debug)]
pub struct SharedSlotPool {
    slots: SlotPool,
    holders: Vec<usize>,
}

impl SharedSlotPool {
    pub fn new(capacity: usize) -> Self {
        Self { slots: SlotPool::new(capacity), holders: vec![0; capacity] }
    }

    /// A slot for `holders` holders, at least one.
    pub fn take(&mut self, holders: usize) -> Option<usize> {
        let slot = self.slots.take()?;
        self.holders[slot] = holders;
        Some(slot)
    }

    /// So many holders are done; the last one frees the slot.
    pub fn release(&mut self, slot: usize, holders: usize) {
        self.holders[slot] -= holders;
        if self.holders[slot] == 0 {
            self.slots.give(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_each_slot_once_and_lowest_first() {
        let mut pool = SlotPool::new(3);
        assert_eq!([pool.take(), pool.take(), pool.take(), pool.take()], [Some(0), Some(1), Some(2), None]);
        pool.give(1);
        assert_eq!([pool.take(), pool.take()], [Some(1), None]);
    }

    #[test]
    fn a_shared_slot_is_free_when_its_last_holder_is_done() {
        let mut pool = SharedSlotPool::new(1);
        assert_eq!(pool.take(2), Some(0));
        pool.release(0, 1);
        assert_eq!(pool.take(1), None);
        pool.release(0, 1);
        assert_eq!(pool.take(1), Some(0));
    }
}
