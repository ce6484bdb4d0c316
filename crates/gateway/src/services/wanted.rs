//! The options of a request, checked and put over the defaults of its service.

use std::{fmt::Display, ops::RangeInclusive};

use serde_json::{Value, json};

use crate::{
    error::{ApiError, Result},
    settings::Options,
};

/// Options on their way to the backend.
#[derive(Debug)]
pub struct Wanted(Options);

impl Wanted {
    /// Starts from these.
    pub fn over(defaults: &Options) -> Self {
        Self(defaults.clone())
    }

    /// What the service says unless its configuration or the request does.
    pub fn default(&mut self, name: &str, value: Value) {
        self.0.entry(name).or_insert(value);
    }

    /// Any number in the range.
    pub fn number(&mut self, name: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<()> {
        let fits = |value: &f64| range.contains(value);
        self.set(name, value, fits, || format!("a number from {} to {}", range.start(), range.end()))
    }

    /// Above 0, at most 1.
    pub fn share(&mut self, name: &str, value: Option<f64>) -> Result<()> {
        let fits = |value: &f64| *value > 0.0 && *value <= 1.0;
        self.set(name, value, fits, || "a number above 0 and at most 1".to_owned())
    }

    /// A whole number in the range.
    pub fn integer(&mut self, name: &str, value: Option<u32>, range: RangeInclusive<u32>) -> Result<()> {
        let fits = |value: &u32| range.contains(value);
        self.set(name, value, fits, || format!("a whole number from {} to {}", range.start(), range.end()))
    }

    /// Where sampling begins.
    pub fn seed(&mut self, value: Option<u64>) {
        if let Some(seed) = value {
            self.put("seed", json!(seed));
        }
    }

    /// What no range limits.
    pub fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// As the backend names them.
    pub fn options(self) -> Options {
        self.0
    }

    fn set<T: Display + Into<Value>>(
        &mut self,
        name: &str,
        value: Option<T>,
        fits: impl Fn(&T) -> bool,
        expected: impl Fn() -> String,
    ) -> Result<()> {
        match value {
            Some(value) if !fits(&value) => {
                Err(ApiError::invalid_argument(format!("got {value}, expected {}", expected())).at(name))
            }
            Some(value) => {
                self.put(name, value.into());
                Ok(())
            }
            None => Ok(()),
        }
    }
}
