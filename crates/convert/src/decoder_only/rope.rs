//! Rotary position embeddings: from what a configuration says to frequencies.
//!
//! Published checkpoints have `rope_theta` and `rope_scaling`, newer ones `rope_parameters` with both in it, and
//! with one such object for each kind of layer where there are two. Where both are there, `rope_scaling` wins, as in
//! transformers 5. It replaces all of `rope_parameters`, the theta included. With two kinds of layers it replaces only
//! the keys that it names, and only for the layers that see everything.

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::{Map, Value};
use textgen_artifact::RotarySpec;

use crate::error::{ConvertError, Result};

const DEFAULT_THETA: f64 = 10_000.0;
/// Gemma 3's, of the layers that see everything.
const DEFAULT_GLOBAL_THETA: f64 = 1_000_000.0;

/// Names of a kind of scaling; the first one wins.
const KINDS: [&str; 2] = ["rope_type", "type"];
const YARN: &str = "yarn";
const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    rope_theta: Option<f64>,
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
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
}

/// What a configuration says of positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// One rotation, or that of the layers which see everything and that of those which see a window.
    pub rotary: Vec<RotarySpec>,
    /// Tokens that the model is made for.
    pub context: usize,
}

/// Reads the rotary embeddings, two with `two` kinds of layers. `context` is what the configuration gives, before it is
/// scaled.
pub fn read(
    path: &str,
    keys: &Map<String, Value>,
    head_dim: usize,
    two: bool,
    context: usize,
) -> Result<Rope> {
    let number = |name: &str| keys.get(name).and_then(Value::as_f64);
    let parsed = |keys: Map<String, Value>| {
        let parameters = Parameters::deserialize(Value::Object(keys));
        parameters
            .map_err(|error| ConvertError::Syntax { path: path.to_owned(), reason: format!("RoPE: {error}") })
    };
    let parameters = object(path, keys, "rope_parameters")?;
    let full = object(path, &parameters, "full_attention")?;
    let sliding = object(path, &parameters, "sliding_attention")?;
    let is_flat = full.is_empty() && sliding.is_empty() && !two;

    let scaling = object(path, keys, "rope_scaling")?;
    let mut global = if is_flat { parameters } else { full };
    if !two && !scaling.is_empty() {
        global.clear();
    }
    global.extend(scaling);
    let mut global = parsed(global)?;

    let default_theta = if two { DEFAULT_GLOBAL_THETA } else { DEFAULT_THETA };
    let theta = global.rope_theta.or(number("rope_theta")).unwrap_or(default_theta);
    global.partial_rotary_factor = global.partial_rotary_factor.or(number("partial_rotary_factor"));
    // Beside the scaling it wins, but for two kinds of layers.
    let original = number(ORIGINAL_CONTEXT).filter(|_| !two);
    global.original_max_position_embeddings = original.or(global.original_max_position_embeddings);
    let mut rotary = vec![frequencies(path, &global, theta, head_dim, context)?];
    if two {
        let local = parsed(sliding)?;
        let theta = local.rope_theta.or(number("rope_local_base_freq")).unwrap_or(DEFAULT_THETA);
        rotary.push(frequencies(path, &local, theta, head_dim, context)?);
    }
    let context = match global.kind() {
        YARN => {
            let yarn = Yarn::of(path, &global, context)?;
            (yarn.original * yarn.factor) as usize
        }
        _ => context,
    };
    Ok(Rope { rotary, context })
}

/// The keys of an object, none where it is absent; the kind of scaling has its first name.
fn object(path: &str, keys: &Map<String, Value>, name: &str) -> Result<Map<String, Value>> {
    let mut keys = match keys.get(name) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(keys)) => keys.clone(),
        Some(other) => return Err(unsupported(path, name, other.to_string(), "an object")),
    };
    let kinds = KINDS.map(|name| keys.remove(name).filter(|kind| !kind.is_null()));
    if let Some(kind) = kinds.into_iter().flatten().next() {
        keys.insert(KINDS[0].to_owned(), kind);
    }
    Ok(keys)
}

impl Parameters {
    fn kind(&self) -> &str {
        self.rope_type.as_deref().unwrap_or("default")
    }

    fn original_context(&self, context: usize) -> f64 {
        self.original_max_position_embeddings.unwrap_or(context as f64)
    }
}

/// The stretching of a context.
struct Yarn {
    original: f64,
    factor: f64,
}

impl Yarn {
    fn of(path: &str, parameters: &Parameters, context: usize) -> Result<Self> {
        let original = positive(path, ORIGINAL_CONTEXT, Some(parameters.original_context(context)))?;
        let factor = parameters.factor.unwrap_or(context as f64 / original);
        Ok(Self { original, factor: positive(path, "factor", Some(factor))? })
    }

    /// Factor of cosine and sine.
    fn magnitude(&self, parameters: &Parameters) -> f64 {
        let of_scale =
            |scale: f64| if self.factor > 1.0 { 0.1 * scale * self.factor.ln() + 1.0 } else { 1.0 };
        let given = |scale: Option<f64>| scale.filter(|&scale| scale != 0.0);
        match (parameters.attention_factor, given(parameters.mscale), given(parameters.mscale_all_dim)) {
            (Some(factor), ..) => factor,
            (None, Some(scale), Some(all)) => of_scale(scale) / of_scale(all),
            _ => of_scale(1.0),
        }
    }
}

fn unsupported(path: &str, what: &str, got: String, expected: &str) -> ConvertError {
    ConvertError::Unsupported {
        path: path.to_owned(),
        what: format!("`{what}`"),
        got,
        expected: expected.to_owned(),
    }
}

fn positive(path: &str, name: &str, value: Option<f64>) -> Result<f64> {
    match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        Some(value) => Err(unsupported(path, name, value.to_string(), "a positive number")),
        None => Err(unsupported(path, name, "missing".to_owned(), "a positive number")),
    }
}

fn frequencies(
    path: &str,
    parameters: &Parameters,
    theta: f64,
    head_dim: usize,
    context: usize,
) -> Result<RotarySpec> {
    let unsupported = |what: &str, got: String, expected: &str| unsupported(path, what, got, expected);
    let positive = |name: &str, value: Option<f64>| positive(path, name, value);
    let mut theta = positive("rope_theta", Some(theta))?;
    let share = positive("partial_rotary_factor", Some(parameters.partial_rotary_factor.unwrap_or(1.0)))?;
    let width = (head_dim as f64 * share) as usize / 2 * 2;
    if !(2..=head_dim).contains(&width) {
        return Err(unsupported("partial_rotary_factor", share.to_string(), "a part of the head's width"));
    }
    let kind = parameters.kind();
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
            let original = positive(ORIGINAL_CONTEXT, Some(parameters.original_context(context)))?;
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
        YARN => {
            let yarn = Yarn::of(path, parameters, context)?;
            magnitude = yarn.magnitude(parameters);
            let Yarn { original, factor } = yarn;
            // The pair that makes so many turns within the original context.
            let pair_of = |turns: f64| width as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
            let turns =
                |turns: Option<f64>, default: f64| turns.filter(|&turns| turns != 0.0).unwrap_or(default);
            let mut low = pair_of(turns(parameters.beta_fast, 32.0));
            let mut high = pair_of(turns(parameters.beta_slow, 1.0));
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

    const CONTEXT: usize = 512;

    fn rope(json: Value, head_dim: usize, two: bool) -> Result<Rope> {
        read("config.json", json.as_object().unwrap(), head_dim, two, CONTEXT)
    }

    fn rotary(json: Value, two: bool) -> Vec<RotarySpec> {
        rope(json, 8, two).unwrap().rotary
    }

    #[track_caller]
    fn close<const N: usize>(got: &RotarySpec, expected: [f64; N]) {
        assert_eq!(got.inverse_frequencies.len(), N);
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
    /// Expected values are those of transformers 5.24.
    #[test]
    fn a_scaling_beside_parameters_wins() {
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512});
        let parameters = json!({"rope_type": "default", "rope_theta": 10000.0});
        let got = rope(json!({"rope_parameters": parameters, "rope_scaling": yarn}), 16, false).unwrap();
        let expected = [1.0, 0.25693506, 0.0625, 0.013834965, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05];
        close(&got.rotary[0], expected);
        assert!((got.rotary[0].magnitude - 1.138_629_4).abs() < 1e-6);
        assert_eq!(got.context, 2048);

        // All of it, the theta included, which comes from elsewhere then.
        let parameters = json!({"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e6});
        let linear = json!({"rope_type": "linear", "factor": 2.0});
        let both = json!({"rope_parameters": parameters, "rope_scaling": linear});
        close(&rotary(both, false)[0], [0.5, 0.05, 0.005, 0.0005]);
        let both = json!({"rope_theta": 500.0, "rope_parameters": parameters, "rope_scaling": linear});
        close(&rotary(both, false)[0], [0.5, 0.10573712, 0.022360681, 0.004728708]);
    }

    #[test]
    fn a_scaling_that_says_nothing_wins_over_nothing() {
        let parameters = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6});
        for scaling in [json!({}), Value::Null] {
            let both = json!({"rope_parameters": parameters, "rope_scaling": scaling});
            close(&rotary(both, false)[0], [0.125, 0.0039528473, 0.000125, 3.9528468e-06]);
        }
        let error = rope(json!({"rope_scaling": "linear"}), 8, false).unwrap_err().to_string();
        assert!(error.contains("`rope_scaling` is \"linear\""), "{error}");
    }

    #[test]
    fn with_two_kinds_of_layers_a_scaling_changes_what_it_names() {
        let parameters = json!({
            "full_attention": {"rope_type": "default", "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        });
        let scaling = json!({"rope_type": "linear", "factor": 8.0});
        let got = rotary(json!({"rope_parameters": parameters, "rope_scaling": scaling}), true);
        close(&got[0], [0.125, 0.0047007538, 0.00017677668, 6.6478697e-06]);
        close(&got[1], [1.0, 0.31622776, 0.1, 0.031622779]);
    }

    #[test]
    fn of_two_names_of_a_kind_the_newer_one_wins() {
        let scaling = json!({"rope_type": "linear", "type": "yarn", "factor": 8.0});
        close(&rotary(json!({"rope_scaling": scaling}), false)[0], [0.125, 0.0125, 0.00125, 0.000125]);
    }

    #[test]
    fn yarn_reads_all_of_its_keys() {
        let with = |keys: Value| {
            let mut scaling =
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
            scaling.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            rotary(json!({"rope_scaling": scaling}), false).remove(0)
        };
        let plain = with(json!({}));
        close(&plain, [1.0, 0.0625, 0.0025, 0.00025]);
        assert_eq!(with(json!({"beta_fast": 0, "beta_slow": null})), plain);
        let turns = json!({"beta_fast": 8, "beta_slow": 2, "truncate": false});
        close(&with(turns), [1.0, 0.025996597, 0.0025, 0.00025]);
        for (keys, magnitude) in [
            (json!({}), 1.138_629_4),
            (json!({"mscale": 1.0, "mscale_all_dim": 0.8}), 1.024_958),
            (json!({"mscale": 0.707, "mscale_all_dim": 0}), 1.138_629_4),
            (json!({"mscale": 1.0, "mscale_all_dim": 0.8, "attention_factor": 1.5}), 1.5),
        ] {
            let got = with(keys.clone()).magnitude;
            assert!((got - magnitude).abs() < 1e-6, "{keys}: {got}");
        }
    }

    #[test]
    fn yarn_lengthens_the_context_once() {
        let context = |keys: Value| rope(keys, 8, false).unwrap().context;
        let yarn = |original: Value, factor: Value| {
            let keys = json!({"factor": factor, "original_max_position_embeddings": original});
            let mut scaling = json!({"rope_type": "yarn"});
            scaling.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            json!({"rope_scaling": scaling})
        };
        assert_eq!(context(yarn(json!(512), json!(4.0))), 2048);
        // The configuration gives the long context already.
        assert_eq!(context(yarn(json!(128), json!(4.0))), CONTEXT);
        assert_eq!(context(yarn(json!(128), Value::Null)), CONTEXT);
        // It does not say which one it gives: transformers takes the short one, and stretches from there.
        assert_eq!(context(yarn(Value::Null, json!(4.0))), 2048);
        let mut beside = yarn(json!(128), json!(4.0));
        beside["original_max_position_embeddings"] = json!(64);
        assert_eq!(context(beside), 256);
        for other in [json!({"type": "linear", "factor": 4.0}), json!({"type": "dynamic", "factor": 4.0})] {
            assert_eq!(context(json!({"rope_scaling": other})), CONTEXT);
        }
        for (keys, name) in [
            (yarn(json!(0), json!(4.0)), "original_max_position_embeddings"),
            (yarn(json!(512), json!(-4.0)), "factor"),
        ] {
            let error = rope(keys, 8, false).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn llama3_takes_the_original_context_from_wherever_it_stands() {
        let scaling =
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
        let unsaid = json!({"rope_scaling": scaling});
        close(&rotary(unsaid, false)[0], [1.0, 0.1, 0.00125, 0.000125]);
        let beside = json!({"rope_scaling": scaling, "original_max_position_embeddings": 64});
        close(&rotary(beside, false)[0], [1.0, 0.013042256, 0.00125, 0.000125]);
    }
}
