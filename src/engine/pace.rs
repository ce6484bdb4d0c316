//! How many prompt tokens a step can bear beside streams, found by measurement: what a token costs depends on the
//! model, the machine and how far into its prompt it stands.
//!
//! How a prompt is cut never shows in an answer, so the cut may follow the clock.

use std::time::Duration;

/// A step with prompt tokens may take so many times as long as one without.
const STRETCH: f64 = 2.0;
/// Fewer tokens than this are not worth the step's fixed costs.
const LEAST: f64 = 8.0;
/// After so many steps with prompt tokens comes one without, so that it is known what those cost now.
const STEPS_TO_A_PLAIN_ONE: usize = 16;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.25;

/// See the module.
#[derive(Debug)]
pub struct PrefillPace {
    most: f64,
    tokens: f64,
    /// Seconds of a step without prompt tokens; none before the first.
    plain_step: Option<f64>,
    /// Steps with prompt tokens since then.
    since_plain: usize,
}

impl PrefillPace {
    /// A pace that never exceeds `most` tokens a step.
    pub fn new(most: usize) -> Self {
        let most = most as f64;
        Self { most, tokens: LEAST.max(most / 4.0).min(most), plain_step: None, since_plain: 0 }
    }

    /// Prompt tokens for the next step that has streams in it.
    pub fn tokens(&self) -> usize {
        if self.since_plain < STEPS_TO_A_PLAIN_ONE { self.tokens as usize } else { 0 }
    }

    /// A step with streams and `prompt_tokens` has taken so long.
    pub fn measured(&mut self, prompt_tokens: usize, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if prompt_tokens == 0 {
            let known = self.plain_step.unwrap_or(seconds);
            self.plain_step = Some(known + NEWEST * (seconds - known));
            self.since_plain = 0;
            return;
        }
        self.since_plain += 1;
        let Some(plain) = self.plain_step else { return };
        let allowed = (STRETCH - 1.0) * plain;
        let taken = (seconds - plain).max(allowed / 4.0);
        // A short prompt says little of many tokens, and one slow step little of the next.
        let fitting = (prompt_tokens as f64 * allowed / taken).min(2.0 * self.tokens);
        self.tokens = (self.tokens + 0.5 * (fitting - self.tokens)).max(LEAST).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: f64 = 0.010;

    /// Steps of a machine on which a prompt token costs so much.
    fn run(pace: &mut PrefillPace, mut steps: usize, token_seconds: f64) {
        while pace.tokens() == 0 || steps > 0 {
            let tokens = pace.tokens();
            steps = steps.saturating_sub(1);
            pace.measured(tokens, Duration::from_secs_f64(PLAIN + tokens as f64 * token_seconds));
        }
    }

    fn started(most: usize) -> PrefillPace {
        let mut pace = PrefillPace::new(most);
        pace.measured(0, Duration::from_secs_f64(PLAIN));
        pace
    }

    #[test]
    fn a_step_with_a_prompt_takes_twice_as_long_as_one_without() {
        for token_seconds in [0.0001, 0.0005, 0.001] {
            let mut pace = started(1000);
            run(&mut pace, 20, token_seconds);
            let expected = PLAIN / token_seconds;
            assert!((pace.tokens() as f64 / expected - 1.0).abs() < 0.1, "{} of {expected}", pace.tokens());
        }
    }

    #[test]
    fn it_follows_a_prompt_whose_tokens_grow_dearer_and_keeps_within_its_bounds() {
        let mut pace = started(64);
        run(&mut pace, 20, 0.000_001);
        assert_eq!(pace.tokens(), 64);
        run(&mut pace, 20, 0.001);
        assert!((9..=11).contains(&pace.tokens()), "{}", pace.tokens());
        run(&mut pace, 20, 1.0);
        assert_eq!(pace.tokens(), 8);
        assert_eq!(PrefillPace::new(1).tokens(), 1);
    }

    #[test]
    fn it_learns_what_more_streams_cost_while_prompts_never_cease() {
        let mut pace = started(1000);
        for _ in 0..400 {
            let tokens = pace.tokens();
            pace.measured(tokens, Duration::from_secs_f64(0.060 + tokens as f64 * 0.001));
        }
        assert!(pace.tokens() > 50, "{}", pace.tokens());
    }

    #[test]
    fn before_anything_is_known_it_takes_a_part_of_what_it_may() {
        let mut pace = PrefillPace::new(256);
        assert_eq!(pace.tokens(), 64);
        pace.measured(64, Duration::from_secs(1));
        assert_eq!(pace.tokens(), 64);
    }
}
