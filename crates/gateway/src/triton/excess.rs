//! A text that is too long for its model, as the backend says it.

/// How far a text is beyond a model's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Tokens of the text's prompt.
    pub tokens: usize,
    /// Tokens that fit.
    pub limit: usize,
}

impl Excess {
    /// What the message of a refusal says of it; none where the reason is another.
    pub fn told_in(message: &str) -> Option<Self> {
        [" tokens, at most ", " tokens, the context holds "].into_iter().find_map(|between| {
            let (before, after) = message.split_once(between)?;
            let tokens = before.rsplit(' ').next()?.parse().ok()?;
            let limit = after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()?;
            Some(Self { tokens, limit })
        })
    }

    /// Of so many characters, how many would fit, about.
    pub fn fitting(&self, chars: usize) -> usize {
        // A little less, since tokens are not of one length; two digits say enough.
        let fitting = chars * self.limit / self.tokens.max(1) * 9 / 10;
        let step = 10_usize.pow(fitting.max(1).ilog10().saturating_sub(1));
        fitting / step * step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backends_words_are_understood() {
        let encoder =
            "in ensemble 'a', text 2: 781 tokens, at most 512 are served; shorten or split the text";
        assert_eq!(Excess::told_in(encoder), Some(Excess { tokens: 781, limit: 512 }));
        let decoder =
            "text 0: its prompt has 5000 tokens, the context holds 4096, at least one generated token";
        assert_eq!(Excess::told_in(decoder), Some(Excess { tokens: 5000, limit: 4096 }));
        for other in ["", "text 0: no tokens; give it some text", "x tokens, at most y"] {
            assert_eq!(Excess::told_in(other), None);
        }
    }

    #[test]
    fn what_fits_is_told_roundly() {
        assert_eq!(Excess { tokens: 781, limit: 512 }.fitting(4000), 2300);
        assert_eq!(Excess { tokens: 4000, limit: 16 }.fitting(2000), 7);
        assert_eq!(Excess { tokens: 4000, limit: 1 }.fitting(2000), 0);
    }
}
