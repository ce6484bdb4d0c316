//! Variants of one text that differ from it and from each other: what repeats is replaced by drawing again.

use std::{collections::HashSet, future::Future};

use serde::{Deserialize, Serialize};

use super::likeness::Likeness;
use crate::{error::Result, services::deadline::Deadline};

/// How often the model is asked again for variants that repeat.
pub const ROUNDS: u32 = 3;
/// For each variant that is wanted, as many are drawn at most, the first ones included.
const DRAWN_AT_MOST: usize = 3;

/// One text that a model gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its text.
    pub text: String,
    /// None where the model does not say.
    pub finish_reason: Option<FinishReason>,
}

/// Why a text ends where it ends. Of several that are joined, the later of these holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// It is complete.
    Stop,
    /// It met a limit of tokens, and goes no further.
    Length,
}

impl FinishReason {
    /// As the backend names it.
    pub fn named(name: &str) -> Self {
        if name == "length" { Self::Length } else { Self::Stop }
    }
}

/// What a model gives a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelProbability {
    #[serde(alias = "choice")]
    label: String,
    probability: f64,
}

/// What a model gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Drawn {
    /// In order.
    pub variants: Vec<Variant>,
    /// What the model gives each label, in their order; when it was asked for.
    pub probabilities: Option<Vec<LabelProbability>>,
    /// Tokens generated, as far as the model says.
    pub output_tokens: u32,
}

/// Where variants come from.
pub trait Source {
    /// Draws so many; `round` is 0 for the first ones, and counts how often something was drawn again.
    fn draw(&mut self, round: u32, count: usize) -> impl Future<Output = Result<Drawn>> + Send;
}

/// `wanted` variants of `text`, each unlike the text and the others: those of the `first` draw, and others in place of
/// those that repeat. There may be fewer in the end: the model may have no more, or fail, or the time be over.
pub async fn distinct(
    text: &str,
    wanted: usize,
    first: Drawn,
    deadline: &Deadline,
    source: &mut impl Source,
) -> Result<Drawn> {
    let Drawn { variants, probabilities, mut output_tokens } = first;
    // Nothing at all is no variant either.
    let mut seen = HashSet::from([Likeness::of(text), Likeness::of("")]);
    let mut is_new = |variant: &Variant| seen.insert(Likeness::of(&variant.text));
    // Each has its place for good.
    let mut places: Vec<Option<Variant>> =
        variants.into_iter().map(|variant| Some(variant).filter(&mut is_new)).collect();
    let mut budget = wanted * (DRAWN_AT_MOST - 1);
    for round in 1..=ROUNDS {
        let missing = places.iter().filter(|place| place.is_none()).count();
        if missing == 0 {
            break;
        }
        // More than are missing, as long as each later round keeps the same share: the likely variants were already drawn.
        let share = budget / (ROUNDS - round + 1) as usize;
        let count = missing.max(share).min(budget);
        if count == 0 {
            break;
        }
        budget -= count;
        let others = match deadline.reach(source.draw(round, count)).await {
            // What there is, is worth more than an error.
            Some(Err(error)) if error.code.status().is_server_error() => break,
            Some(others) => others?,
            None => break,
        };
        output_tokens += others.output_tokens;
        let empty = places.iter_mut().filter(|place| place.is_none());
        for (place, other) in empty.zip(others.variants.into_iter().filter(&mut is_new)) {
            *place = Some(other);
        }
    }
    Ok(Drawn { variants: places.into_iter().flatten().collect(), probabilities, output_tokens })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ApiError;

    /// Gives what is written down, in order; then it has no answer in time.
    struct Scripted {
        texts: Vec<Result<Vec<&'static str>>>,
        asked: Vec<(u32, usize)>,
    }

    impl Scripted {
        fn of(rounds: &[&[&'static str]]) -> Self {
            Self { texts: rounds.iter().map(|texts| Ok(texts.to_vec())).collect(), asked: Vec::new() }
        }

        async fn variants(&mut self, wanted: usize) -> Result<Vec<String>> {
            let deadline =
                Deadline::after(Duration::from_millis(if self.texts.len() > 1 { 9_000 } else { 50 }));
            let first = self.draw(0, wanted).await?;
            let drawn = distinct("The cat.", wanted, first, &deadline, self).await?;
            Ok(drawn.variants.into_iter().map(|variant| variant.text).collect())
        }
    }

    impl Source for Scripted {
        async fn draw(&mut self, round: u32, count: usize) -> Result<Drawn> {
            self.asked.push((round, count));
            if self.texts.is_empty() {
                return std::future::pending().await;
            }
            let texts = self.texts.remove(0)?;
            assert_eq!(texts.len(), count);
            let variant = |text: &str| Variant { text: text.to_owned(), finish_reason: None };
            Ok(Drawn {
                variants: texts.into_iter().map(variant).collect(),
                output_tokens: 1,
                ..Default::default()
            })
        }
    }

    #[tokio::test]
    async fn what_repeats_is_drawn_again_in_its_place() {
        let mut source = Scripted::of(&[
            &["A cat", "the CAT", "a cat!", "Cats"],
            &["Kitty", "cats."],
            &["cats", "Tom", "Joe"],
        ]);
        assert_eq!(source.variants(4).await.unwrap(), ["A cat", "Kitty", "Tom", "Cats"]);
        assert_eq!(source.asked, [(0, 4), (1, 2), (2, 3)]);
    }

    #[tokio::test]
    async fn three_rounds_are_the_end() {
        let mut source = Scripted::of(&[&["A", "a", "b"], &["A", "B"], &["B", "B"], &["a!", ""]]);
        assert_eq!(source.variants(3).await.unwrap(), ["A", "b"]);
        assert_eq!(source.asked, [(0, 3), (1, 2), (2, 2), (3, 2)]);
    }

    #[tokio::test]
    async fn three_times_as_many_are_the_end() {
        let same: &[&str] = &["The cat", "the cat"];
        let mut source = Scripted::of(&[same, same, same]);
        assert_eq!(source.variants(2).await.unwrap(), [""; 0]);
        assert_eq!(source.asked, [(0, 2), (1, 2), (2, 2)]);
        let mut source = Scripted::of(&[&["the cat"], &["the cat"], &["A cat"]]);
        assert_eq!(source.variants(1).await.unwrap(), ["A cat"]);
    }

    #[tokio::test]
    async fn nothing_is_no_variant() {
        let mut source = Scripted::of(&[&["", " \n"], &["a", ""], &["b"]]);
        assert_eq!(source.variants(2).await.unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn what_there_is_comes_back_when_the_time_is_over() {
        let mut source = Scripted::of(&[&["A", "a"]]);
        assert_eq!(source.variants(2).await.unwrap(), ["A"]);
        let mut source = Scripted::of(&[&["A", "a"]]);
        source.texts.push(Err(ApiError::deadline_exceeded("the deadline passed")));
        assert_eq!(source.variants(2).await.unwrap(), ["A"]);
    }

    #[tokio::test]
    async fn what_there_is_comes_back_when_the_server_fails_later() {
        let mut source = Scripted::of(&[&["A", "a"]]);
        source.texts.push(Err(ApiError::unavailable("gone")));
        assert_eq!(source.variants(2).await.unwrap(), ["A"]);
        let mut source = Scripted::of(&[]);
        source.texts = vec![Err(ApiError::unavailable("gone")), Ok(vec!["A", "B"])];
        assert_eq!(source.variants(2).await.unwrap_err().message, "gone");
        let mut source = Scripted::of(&[&["A", "a"]]);
        source.texts.push(Err(ApiError::invalid_argument("never")));
        assert_eq!(source.variants(2).await.unwrap_err().message, "never");
    }
}
