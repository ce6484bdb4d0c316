//! Relative position bias: a learned value for each bucket of distances and each head, spread out at
//! conversion to one for each distance.

use super::config::Buckets;

/// Bias of each distance key − query from −W to W, `[heads, 2W + 1]`, W the largest distance; `table` is
/// `[buckets, heads]`.
pub fn both_directions(table: &[f32], heads: usize, buckets: Buckets) -> Vec<f32> {
    let half = Buckets { count: buckets.count / 2, ..buckets };
    let before = (0..=buckets.max_distance).rev().map(|distance| half.of(distance));
    let after = (1..=buckets.max_distance).map(|distance| half.count + half.of(distance));
    spread(table, heads, before.chain(after))
}

/// Bias of each distance query − key from 0 to W, `[heads, W + 1]`.
pub fn backwards(table: &[f32], heads: usize, buckets: Buckets) -> Vec<f32> {
    spread(table, heads, (0..=buckets.max_distance).map(|distance| buckets.of(distance)))
}

fn spread(table: &[f32], heads: usize, buckets: impl Iterator<Item = usize> + Clone) -> Vec<f32> {
    (0..heads).flat_map(|head| buckets.clone().map(move |bucket| table[bucket * heads + head])).collect()
}

impl Buckets {
    /// The bucket of a distance in one direction: half of them hold one distance each, the others grow with
    /// its logarithm. Each step rounds to f32, as the reference does, so that borders fall alike.
    fn of(self, distance: usize) -> usize {
        let exact = self.count / 2;
        if distance < exact {
            return distance;
        }
        let ln = |ratio: f32| f64::from(ratio).ln() as f32;
        let range = (self.max_distance as f64 / exact as f64).ln() as f32;
        let share = ln(distance as f32 / exact as f32) / range;
        (exact + (share * (self.count - exact) as f32) as usize).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;

    /// Buckets of all distances as the reference computes them, `"count/max_distance"` → by distance.
    fn reference(direction: &str) -> BTreeMap<String, Vec<f32>> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/t5/buckets.json");
        let mut all: BTreeMap<String, BTreeMap<String, Vec<f32>>> =
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        all.remove(direction).unwrap()
    }

    fn geometry(key: &str) -> (Buckets, Vec<f32>) {
        let (count, max_distance) = key.split_once('/').unwrap();
        let buckets = Buckets { count: count.parse().unwrap(), max_distance: max_distance.parse().unwrap() };
        // A table that holds the bucket's own number.
        (buckets, (0..buckets.count).map(|bucket| bucket as f32).collect())
    }

    #[test]
    fn buckets_are_those_of_the_reference_at_every_distance() {
        for (key, expected) in reference("encoder") {
            let (buckets, table) = geometry(&key);
            assert_eq!(both_directions(&table, 1, buckets), expected, "encoder {key}");
        }
        for (key, expected) in reference("decoder") {
            let (buckets, table) = geometry(&key);
            assert_eq!(backwards(&table, 1, buckets), expected, "decoder {key}");
        }
    }

    #[test]
    fn heads_come_first() {
        let table: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let buckets = Buckets { count: 4, max_distance: 3 };
        assert_eq!(backwards(&table, 2, buckets), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    }
}
