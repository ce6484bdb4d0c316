//! Who has waited for whom: vector clocks of two queues and the host.
//!
//! Each thing that a queue does has a number. A queue knows up to which number the other's work is done for sure: what
//! it followed, and what the host had waited for when it asked. Two uses of the same bytes by both queues, of which one
//! writes, are a race unless the later one knows of the earlier.

use super::{DeviceResult, Span};

/// For each queue, how many of its things are done.
pub type Time = [u64; 2];

/// A use of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub span: Span,
    pub is_write: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Clock {
    /// What each queue knows; of itself, what it has been asked for.
    known: [Time; 2],
    /// What the host has waited for.
    host: Time,
    /// The last use of each kind by each queue.
    uses: Vec<(Access, usize, u64)>,
}

impl Clock {
    /// What `queue` knows now.
    pub fn of(&self, queue: usize) -> Time {
        self.known[queue]
    }

    /// `queue` is asked for something that uses memory so.
    pub fn tick(
        &mut self,
        what: &str,
        queue: usize,
        accesses: &mut dyn Iterator<Item = Access>,
    ) -> DeviceResult<()> {
        self.follow(queue, self.host);
        self.known[queue][queue] += 1;
        let now = self.known[queue][queue];
        for access in accesses {
            let unknown = self.uses.iter().find(|(other, by, time)| {
                *by != queue
                    && (access.is_write || other.is_write)
                    && overlap(access.span, other.span)
                    && self.known[queue][*by] < *time
            });
            if let Some((other, ..)) = unknown {
                let verb = |access: &Access| if access.is_write { "writes" } else { "reads" };
                return Err(format!(
                    "{what}: it {} memory that the other queue {}, and did not wait for it",
                    verb(&access),
                    verb(other)
                ));
            }
            self.uses.retain(|(other, by, _)| (*other, *by) != (access, queue));
            self.uses.push((access, queue, now));
        }
        Ok(())
    }

    /// `queue` waits for what is done at `time`.
    pub fn follow(&mut self, queue: usize, time: Time) {
        raise(&mut self.known[queue], time);
    }

    /// The host waits for all that `queue` was asked for.
    pub fn host_waits(&mut self, queue: usize) {
        self.host_knows(self.known[queue]);
    }

    /// The host has seen what is done at `time`.
    pub fn host_knows(&mut self, time: Time) {
        raise(&mut self.host, time);
    }
}

fn raise(known: &mut Time, time: Time) {
    for (known, time) in known.iter_mut().zip(time) {
        *known = time.max(*known);
    }
}

fn overlap(a: Span, b: Span) -> bool {
    a.address < b.address + b.bytes && b.address < a.address + a.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(address: usize, is_write: bool) -> Access {
        Access { span: Span { address, bytes: 8 }, is_write }
    }

    fn tick(clock: &mut Clock, queue: usize, access: Access) -> DeviceResult<()> {
        clock.tick("run", queue, &mut [access].into_iter())
    }

    #[test]
    fn what_one_writes_the_other_waits_for() {
        for (first, second, races) in
            [(true, true, true), (true, false, true), (false, true, true), (false, false, false)]
        {
            let mut clock = Clock::default();
            tick(&mut clock, 0, used(64, first)).unwrap();
            tick(&mut clock, 0, used(64, true)).unwrap_or_else(|error| panic!("its own: {error}"));
            tick(&mut clock, 1, used(72, true)).unwrap();
            let mut clock = Clock::default();
            tick(&mut clock, 0, used(64, first)).unwrap();
            assert_eq!(tick(&mut clock, 1, used(70, second)).is_err(), races, "{first} {second}");
        }
    }

    #[test]
    fn a_mark_covers_what_was_before_it_only() {
        let mut clock = Clock::default();
        tick(&mut clock, 0, used(0, true)).unwrap();
        let mark = clock.of(0);
        tick(&mut clock, 0, used(64, true)).unwrap();
        clock.follow(1, mark);
        tick(&mut clock, 1, used(0, true)).unwrap();
        let error = tick(&mut clock, 1, used(64, false)).unwrap_err();
        assert!(error.contains("did not wait"), "{error}");
    }

    #[test]
    fn what_the_host_has_waited_for_is_known_to_all_it_asks_later() {
        let mut clock = Clock::default();
        tick(&mut clock, 0, used(0, true)).unwrap();
        clock.host_waits(0);
        tick(&mut clock, 1, used(0, true)).unwrap();
        // The other way round nobody has waited.
        assert!(tick(&mut clock, 0, used(0, false)).is_err());
    }
}
