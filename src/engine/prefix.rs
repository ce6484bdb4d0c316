//! What each slot's cache holds, so that a prompt which begins like an earlier one starts from there.
//!
//! A key or value depends only on the tokens up to its own, so equal beginnings have equal caches, bit for bit.
//! A slot keeps its contents when its sequence has ended, until it is given to another one.

/// Copying fewer tokens than this is not worth it.
const MIN_COPY: usize = 16;
/// A prompt waits for another that shares so many more tokens with it and has yet to feed them.
const MIN_WAIT: usize = 32;

/// Where a new sequence starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Its slot.
    pub slot: usize,
    /// Tokens of the prompt that need not be fed.
    pub reused: usize,
    /// The slot to copy them from first; none when they are in `slot` already.
    pub copy_from: Option<usize>,
}

/// What comes of asking for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The sequence starts there.
    Placed(Placement),
    /// No slot is free.
    Full,
    /// The prompt is better off once another one, which shares much of it, has been fed.
    Later,
}

/// What a slot holds.
#[derive(Debug, Default)]
struct Contents {
    /// Tokens in the cache, then those on their way into it.
    tokens: Vec<u32>,
    /// Number of those in the cache.
    cached: usize,
    /// When it was last given out.
    used: u64,
    running: bool,
}

/// The slots of an engine, by what they hold.
#[derive(Debug)]
pub struct PrefixSlots {
    slots: Vec<Contents>,
    /// Off: every prompt starts from nothing, in the lowest free slot.
    reuse: bool,
    free: usize,
    clock: u64,
}

impl PrefixSlots {
    pub fn new(slots: usize, reuse: bool) -> Self {
        Self {
            slots: std::iter::repeat_with(Contents::default).take(slots).collect(),
            reuse,
            free: slots,
            clock: 0,
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub fn free(&self) -> usize {
        self.free
    }

    /// Takes a slot for a sequence that starts with `prompt`.
    pub fn take(&mut self, prompt: &[u32]) -> Taken {
        let Some(lowest) = self.slots.iter().position(|slot| !slot.running) else { return Taken::Full };
        let placement = match self.reuse {
            true => self.place(prompt),
            false => Some(Placement { slot: lowest, reused: 0, copy_from: None }),
        };
        let Some(placement) = placement else { return Taken::Later };
        self.clock += 1;
        self.free -= 1;
        let slot = &mut self.slots[placement.slot];
        slot.running = true;
        slot.used = self.clock;
        slot.cached = placement.reused;
        slot.tokens.clear();
        if self.reuse {
            slot.tokens.extend_from_slice(prompt);
        }
        Taken::Placed(placement)
    }

    /// None when the prompt had better wait.
    fn place(&self, prompt: &[u32]) -> Option<Placement> {
        // The last token must be fed for its logits.
        let prompt = &prompt[..prompt.len() - 1];
        let (mut source, mut reused) = (None, 0);
        for (index, slot) in self.slots.iter().enumerate() {
            let common = slot.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            let cached = common.min(slot.cached);
            if cached > reused {
                (source, reused) = (Some(index), cached);
            }
            if slot.running && common >= cached + MIN_WAIT && common >= reused + MIN_WAIT {
                return None;
            }
        }
        // In place unless that would lose a good deal of what somebody may come back for.
        if let Some(slot) = source
            && !self.slots[slot].running
            && (2 * reused >= self.slots[slot].cached || self.free == 1)
        {
            return Some(Placement { slot, reused, copy_from: None });
        }
        let others =
            self.slots.iter().enumerate().filter(|(index, slot)| !slot.running && Some(*index) != source);
        let (slot, _) = others.min_by_key(|(_, slot)| if slot.cached == 0 { 0 } else { slot.used })?;
        if reused < MIN_COPY {
            return Some(Placement { slot, reused: 0, copy_from: None });
        }
        Some(Placement { slot, reused, copy_from: source })
    }

    /// So many more of the slot's tokens are in its cache.
    pub fn fed(&mut self, slot: usize, tokens: usize) {
        self.slots[slot].cached += tokens;
    }

    /// The sequence in `slot` will feed `token` next.
    pub fn follows(&mut self, slot: usize, token: u32) {
        if self.reuse {
            self.slots[slot].tokens.push(token);
        }
    }

    /// The slot's cache holds nothing, whatever was expected of it.
    pub fn forget(&mut self, slot: usize) {
        self.slots[slot].cached = 0;
    }

    /// The sequence in `slot` has ended; what it held stays until another takes the slot.
    pub fn give(&mut self, slot: usize) {
        let contents = &mut self.slots[slot];
        debug_assert!(contents.running, "slot {slot} was not taken");
        contents.running = false;
        contents.used = self.clock;
        contents.tokens.truncate(contents.cached);
        contents.cached = contents.tokens.len();
        self.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(start: u32, len: u32) -> Vec<u32> {
        (start..start + len).collect()
    }

    /// Starts a sequence and feeds its prompt.
    fn run(slots: &mut PrefixSlots, prompt: &[u32]) -> Placement {
        let placement = placed(slots, prompt);
        slots.fed(placement.slot, prompt.len() - placement.reused);
        placement
    }

    fn placed(slots: &mut PrefixSlots, prompt: &[u32]) -> Placement {
        match slots.take(prompt) {
            Taken::Placed(placement) => placement,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_reuse_each_slot_is_given_once_and_lowest_first() {
        let mut slots = PrefixSlots::new(2, false);
        let tokens = prompt(0, 40);
        assert_eq!(run(&mut slots, &tokens).slot, 0);
        assert_eq!(run(&mut slots, &tokens), Placement { slot: 1, reused: 0, copy_from: None });
        assert_eq!((slots.take(&tokens), slots.free()), (Taken::Full, 0));
        slots.give(0);
        assert_eq!(placed(&mut slots, &tokens), Placement { slot: 0, reused: 0, copy_from: None });
    }

    #[test]
    fn a_beginning_is_found_in_a_slot_that_has_ended_and_in_one_that_runs() {
        let mut slots = PrefixSlots::new(3, true);
        let first = run(&mut slots, &prompt(0, 40));
        let longer = prompt(0, 50);
        let copied = run(&mut slots, &longer);
        assert_eq!(copied, Placement { slot: 1, reused: 40, copy_from: Some(first.slot) });
        slots.give(0);
        slots.give(1);
        assert_eq!(run(&mut slots, &longer), Placement { slot: 1, reused: 49, copy_from: None });
    }

    #[test]
    fn the_last_token_is_always_fed() {
        let mut slots = PrefixSlots::new(1, true);
        let tokens = prompt(0, 20);
        run(&mut slots, &tokens);
        slots.give(0);
        assert_eq!(run(&mut slots, &tokens).reused, 19);
    }

    #[test]
    fn a_short_common_beginning_does_not_cost_a_long_history() {
        let mut slots = PrefixSlots::new(2, true);
        run(&mut slots, &prompt(0, 1000));
        slots.give(0);
        let other = [prompt(0, 30), prompt(5000, 10)].concat();
        assert_eq!(run(&mut slots, &other), Placement { slot: 1, reused: 30, copy_from: Some(0) });
    }

    #[test]
    fn the_slot_that_was_used_longest_ago_goes_first() {
        let mut slots = PrefixSlots::new(2, true);
        run(&mut slots, &prompt(0, 100));
        run(&mut slots, &prompt(1000, 100));
        slots.give(0);
        run(&mut slots, &prompt(0, 101));
        slots.give(1);
        slots.give(0);
        assert_eq!(run(&mut slots, &prompt(0, 101)).slot, 0);
        slots.give(0);
        assert_eq!(run(&mut slots, &prompt(2000, 100)).slot, 1);
    }

    #[test]
    fn a_prompt_waits_for_its_twin_to_be_fed() {
        let mut slots = PrefixSlots::new(2, true);
        let tokens = prompt(0, 100);
        let leader = placed(&mut slots, &tokens);
        assert_eq!(slots.take(&tokens), Taken::Later);
        slots.fed(leader.slot, 100);
        assert_eq!(placed(&mut slots, &tokens).reused, 99);
    }

    #[test]
    fn what_was_not_fed_is_not_kept() {
        let mut slots = PrefixSlots::new(1, true);
        let tokens = prompt(0, 100);
        let placement = placed(&mut slots, &tokens);
        slots.fed(placement.slot, 60);
        slots.give(0);
        assert_eq!(placed(&mut slots, &tokens).reused, 60);
    }

    #[test]
    fn generated_tokens_are_part_of_the_next_turn() {
        let mut slots = PrefixSlots::new(1, true);
        run(&mut slots, &prompt(0, 20));
        for token in 20..30 {
            slots.follows(0, token);
            slots.fed(0, 1);
        }
        slots.follows(0, 30);
        slots.give(0);
        assert_eq!(run(&mut slots, &prompt(0, 40)).reused, 30);
    }
}
