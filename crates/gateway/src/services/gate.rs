//! A bounded number of requests at work, and a bounded queue before them, first come, first served. Who waits can be
//! told the place.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::error::{ApiError, Result};

/// Lets requests in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
    max_active: usize,
    max_queue: usize,
}

#[derive(Debug, Default)]
struct State {
    active: usize,
    next: u64,
    /// Those that wait, with the place each is told; 0 is inside.
    waiting: VecDeque<(u64, watch::Sender<usize>)>,
}

/// Somebody who waits, or whose turn it is. Dropped, it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    gate: Gate,
    number: u64,
    place: watch::Receiver<usize>,
    entered: bool,
}

/// A request at work. Dropped, it lets the next one in.
#[derive(Debug)]
pub struct Pass(Gate);

impl Gate {
    /// A gate for so many at work, and so many that wait.
    pub fn new(max_active: usize, max_queue: usize) -> Self {
        Self { state: Arc::default(), max_active, max_queue }
    }

    /// A place in the queue, which is the first one while there is room inside.
    pub fn queue(&self) -> Result<Waiting> {
        let mut state = self.lock();
        let inside = state.active < self.max_active && state.waiting.is_empty();
        let waiting = state.waiting.len();
        if !inside && waiting >= self.max_queue {
            return Err(ApiError::overloaded(format!(
                "{} requests are at work and {waiting} wait, more are not taken; try again later",
                state.active
            ))
            .retry_after(2));
        }
        let number = state.next;
        state.next += 1;
        let (told, place) = watch::channel(if inside { 0 } else { waiting + 1 });
        if inside {
            state.active += 1;
        } else {
            state.waiting.push_back((number, told));
        }
        Ok(Waiting { gate: self.clone(), number, place, entered: false })
    }

    /// Waits without being told the place.
    pub async fn enter(&self) -> Result<Pass> {
        let mut waiting = self.queue()?;
        while waiting.moved().await > 0 {}
        Ok(waiting.enter())
    }

    /// Requests at work, and requests that wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.active, state.waiting.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        let mut state = self.lock();
        state.active -= 1;
        if let Some((_, first)) = state.waiting.pop_front() {
            state.active += 1;
            first.send_replace(0);
            state.tell();
        }
    }
}

impl State {
    fn tell(&self) {
        for (index, (_, place)) in self.waiting.iter().enumerate() {
            place.send_if_modified(|told| std::mem::replace(told, index + 1) != index + 1);
        }
    }
}

impl Waiting {
    /// The place: 1 is the next one, 0 is inside.
    pub fn place(&self) -> usize {
        *self.place.borrow()
    }

    /// The place once it is another than the last one told; at once when it is inside.
    pub async fn moved(&mut self) -> usize {
        if self.place() > 0 {
            // The sender is dropped only once the place is 0.
            let _ = self.place.changed().await;
        }
        *self.place.borrow_and_update()
    }

    /// Goes in; only from place 0.
    pub fn enter(mut self) -> Pass {
        debug_assert_eq!(self.place(), 0);
        self.entered = true;
        Pass(self.gate.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.entered {
            return;
        }
        let mut state = self.gate.lock();
        let place = state.waiting.iter().position(|(number, _)| *number == self.number);
        match place {
            Some(place) => {
                state.waiting.remove(place);
                state.tell();
            }
            // It was let in just now.
            None => {
                drop(state);
                self.gate.leave();
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_move_up_in_order() {
        let gate = Gate::new(1, 3);
        let inside = gate.queue().unwrap();
        assert_eq!(inside.place(), 0);
        let pass = inside.enter();
        let mut waiting: Vec<Waiting> = (0..3).map(|_| gate.queue().unwrap()).collect();
        assert_eq!(waiting.iter().map(Waiting::place).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(gate.queue().unwrap_err().code, crate::error::ErrorCode::Overloaded);

        // The one in the middle gives up.
        drop(waiting.remove(1));
        assert_eq!(waiting[1].moved().await, 2);
        drop(pass);
        assert_eq!(waiting[0].moved().await, 0);
        assert_eq!(waiting[1].moved().await, 1);
        drop(waiting.remove(0).enter());
        assert_eq!(waiting[0].moved().await, 0);
        // Given up at the door, it lets others in all the same.
        drop(waiting);
        assert_eq!(gate.load(), (0, 0));
        gate.enter().await.unwrap();
        assert_eq!(gate.load(), (0, 0));
    }

    #[test]
    fn nobody_overtakes_who_waits() {
        let gate = Gate::new(1, 2);
        let pass = gate.queue().unwrap().enter();
        let first = gate.queue().unwrap();
        drop(pass);
        assert_eq!((first.place(), gate.queue().unwrap().place()), (0, 1));
    }
}
