//! Rotary position embeddings: from what a configuration says to frequencies.
//!
//! Published checkpoints have `rope_theta` and `rope_scaling`, newer ones `rope_parameters` with both in it, and
//! with one such object for each kind of layer where there are two.

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::{Map, Value};
use textgen_artifact::RotarySpec;

use crate::error::{ConvertError, Result};

const DEFAULT_THETA: f64 = 10_000.0;
/// Gemma 3's, of the layers that see everything.
const DEFAULT_GLOBAL_THETA: f64 = 1_000_000.0;

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    /// HunYuan's static stretching of theta.
    alpha: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// What each frequency is divided by, from files that store the result of a scaling.
    divisors: Option<Vec<f64>>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
}

/// Reads the rotary embeddings: one, or with `two` that of the layers which see everything and that of those
/// which see a window.
pub fn read(path: &str, keys: &Map<String, Value>, head_dim: usize, two: bool) -> Result<Vec<RotarySpec>> {
    let object = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(Parameters::default()),
        Some(value) => Parameters::deserialize(value).map_err(|error| ConvertError::Syntax {
            path: path.to_owned(),
            reason: format!("RoPE: {error}"),
        }),
    };
    let number = |name: &str| keys.get(name).and_then(Value::as_f64);
    let parameters = keys.get("rope_parameters").filter(|value| !value.is_null());
    let of_kind = |kind: &str| parameters.and_then(|parameters| parameters.get(kind));
    let is_nested = of_kind("full_attention").is_some() || of_kind("sliding_attention").is_some();

    let mut global = match parameters {
        Some(_) if is_nested => object(of_kind("full_attention"))?,
        Some(parameters) => object(Some(parameters))?,
        None => object(keys.get("rope_scaling"))?,
    };
    let default_theta = if two { DEFAULT_GLOBAL_THETA } else { DEFAULT_THETA };
    let theta = global.rope_theta.or(number("rope_theta")).unwrap_or(default_theta);
    global.partial_rotary_factor = global.partial_rotary_factor.or(number("partial_rotary_factor"));
    let mut rotary = vec![frequencies(path, &global, theta, head_dim, number("max_position_embeddings"))?];
    if two {
        let local = object(of_kind("sliding_attention"))?;
        let theta = local.rope_theta.or(number("rope_local_base_freq")).unwrap_or(DEFAULT_THETA);
        rotary.push(frequencies(path, &local, theta, head_dim, None)?);
    }
    Ok(rotary)
}

fn frequencies(
    path: &str,
    parameters: &Parameters,
    theta: f64,
    head_dim: usize,
    context: Option<f64>,
) -> Result<RotarySpec> {
    let unsupported = |what: &str, got: String, expected: &str| ConvertError::Unsupported {
        path: path.to_owned(),
        what: format!("`{what}`"),
        got,
        expected: expected.to_owned(),
    };
    let positive = |name: &str, value: Option<f64>| match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(value) => Err(unsupported(name, value.to_string(), "a positive number")),
        None => Err(unsupported(name, "missing".to_owned(), "a positive number")),
    };
    let mut theta = positive("rope_theta", Some(theta))?;
    let share = positive("partial_rotary_factor", Some(parameters.partial_rotary_factor.unwrap_or(1.0)))?;
    let width = (head_dim as f64 * share) as usize / 2 * 2;
    if !(2..=head_dim).contains(&width) {
        return Err(unsupported("partial_rotary_factor", share.to_string(), "a part of the head's width"));
    }
    let kind = parameters.rope_type.as_deref().unwrap_or("default");
    if kind == "dynamic"
        && let Some(alpha) = parameters.alpha.filter(|&alpha| alpha != 0.0)
    {
        let alpha = positive("alpha", Some(alpha))?;
        theta *= alpha.powf(width as f64 / (width as f64 - 2.0));
    }
    let plain = (0..width).step_by(2).map(|i| theta.powf(-(i as f64) / width as f64));
    let plain: Vec<f64> = plain.collect();
    let mut magnitude = 1.0;
    let scaled = match kind {
        // Without alpha, scaling starts beyond the context, which is not served.
        "default" | "dynamic" => plain,
        "linear" => {
            let factor = positive("factor", parameters.factor)?;
            plain.into_iter().map(|frequency| frequency / factor).collect()
        }
        "divisors" => {
            let divisors = parameters.divisors.as_deref().unwrap_or_default();
            if divisors.len() != plain.len() || divisors.iter().any(|&by| !(by.is_finite() && by > 0.0)) {
                let got = format!("{} numbers", divisors.len());
                return Err(unsupported("divisors", got, "a positive number for each frequency"));
            }
            plain.iter().zip(divisors).map(|(frequency, by)| frequency / by).collect()
        }
        "llama3" => {
            let factor = positive("factor", parameters.factor)?;
            let low = positive("low_freq_factor", parameters.low_freq_factor)?;
            let high = positive("high_freq_factor", parameters.high_freq_factor)?;
            let original = parameters.original_max_position_embeddings;
            let original = positive("original_max_position_embeddings", original)?;
            let scale = |frequency: f64| {
                let turns = original * frequency / TAU;
                if turns > high {
                    frequency
                } else if turns < low {
                    frequency / factor
                } else {
                    let smooth = (turns - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            };
            plain.into_iter().map(scale).collect()
        }
        "yarn" => {
            let factor = positive("factor", parameters.factor)?;
            let original = parameters.original_max_position_embeddings.or(context);
            let original = positive("original_max_position_embeddings", original)?;
            magnitude = parameters.attention_factor.unwrap_or(if factor > 1.0 {
                0.1 * factor.ln() + 1.0
            } else {
                1.0
            });
            // The pair that makes so many turns within the original context.
            let pair_of = |turns: f64| width as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
            let mut low = pair_of(parameters.beta_fast.unwrap_or(32.0));
            let mut high = pair_of(parameters.beta_slow.unwrap_or(1.0));
            if parameters.truncate.unwrap_or(true) {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
            let span = if high == low { 0.001 } else { high - low };
            let scale = |(pair, frequency): (usize, f64)| {
                let ramp = ((pair as f64 - low) / span).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            };
            plain.into_iter().enumerate().map(scale).collect()
        }
        other => {
            let expected = "default, linear, dynamic, llama3, yarn";
            return Err(unsupported("rope_type", other.to_owned(), expected));
        }
    };
    Ok(RotarySpec {
        inverse_frequencies: scaled.into_iter().map(|frequency| frequency as f32).collect(),
        magnitude: magnitude as f32,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rotary(json: Value, two: bool) -> Vec<RotarySpec> {
        read("config.json", json.as_object().unwrap(), 8, two).unwrap()
    }

    fn close(got: &RotarySpec, expected: [f64; 4]) {
        for (got, expected) in got.inverse_frequencies.iter().zip(expected) {
            assert!((f64::from(*got) / expected - 1.0).abs() < 1e-6, "got {got}, expected {expected}");
        }
    }

    #[test]
    fn both_forms_of_a_configuration_say_the_same() {
        let old = json!({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}});
        let new = json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}});
        assert_eq!(rotary(old, false), rotary(new, false));
    }

    #[test]
    fn alpha_stretches_theta() {
        let scaling = json!({"type": "dynamic", "alpha": 1000.0, "factor": 1.0});
        let got = rotary(json!({"rope_theta": 10000.0, "rope_scaling": scaling}), false);
        let theta = 10000.0 * 1000f64.powf(8.0 / 6.0);
        close(&got[0], [1.0, theta.powf(-0.25), theta.powf(-0.5), theta.powf(-0.75)]);
    }

    #[test]
    fn two_kinds_of_layers_have_two_thetas() {
        let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 100.0});
        let new = json!({"rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }});
        assert_eq!(rotary(old.clone(), true), rotary(new, true));
        close(&rotary(old, true)[1], [1.0, 100f64.powf(-0.25), 0.1, 100f64.powf(-0.75)]);
    }

    #[test]
    fn llama3_divides_slow_pairs_only() {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        });
        let got = rotary(json!({"rope_theta": 10000.0, "rope_scaling": scaling}), false);
        // 10.2, 1.02, 0.1 and 0.01 turns
        let smooth = (64.0 * 0.1 / TAU - 1.0) / 3.0;
        close(&got[0], [1.0, (1.0 - smooth) * 0.1 / 8.0 + smooth * 0.1, 0.01 / 8.0, 0.001 / 8.0]);
    }
}
