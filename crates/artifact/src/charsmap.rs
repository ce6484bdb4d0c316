//! The rules by which SentencePiece normalizes text (`precompiled_charsmap`): prefixes and what replaces them.
//!
//! The map is the size of a trie in bytes (u32), the trie (darts-clone: a double array of u32 units), and the
//! replacements, each ended by a zero byte. All numbers are little-endian.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// The children of a node lie in one block of units: a byte of text leads to some place in it.
const BLOCK: usize = 256;
/// No rule is near this; it keeps a damaged map from blowing texts up.
const MAX_REPLACEMENT_BYTES: usize = 1024;

/// A map that has been checked: every step through it stays inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Charsmap {
    units: Vec<Unit>,
    replacements: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the normalizer's rule map is {got}, expected {expected}")]
pub struct CharsmapError {
    pub got: String,
    pub expected: &'static str,
}

/// A node, or the value of one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Unit(u32);

impl Unit {
    const VALUE: u32 = 1 << 31;

    /// A place in the replacements.
    fn value(self) -> Option<usize> {
        (self.0 & Self::VALUE != 0).then_some((self.0 & !Self::VALUE) as usize)
    }

    /// Whether this is the node that `byte` leads to. A value is never that.
    fn follows(self, byte: u8) -> bool {
        self.0 & (Self::VALUE | 0xff) == u32::from(byte)
    }

    /// The first of the children of the node at `index` is its value.
    fn has_value(self) -> bool {
        self.0 & (1 << 8) != 0
    }

    fn children(self, index: usize) -> usize {
        index ^ ((self.0 >> 10) << ((self.0 & (1 << 9)) >> 6)) as usize
    }
}

impl Charsmap {
    /// Reads and checks a map.
    pub fn decode(bytes: &[u8]) -> Result<Self, CharsmapError> {
        let damaged = |got: String, expected| Err(CharsmapError { got, expected });
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return damaged(format!("{} bytes", bytes.len()), "a header of 4 bytes");
        };
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || !size.is_multiple_of(4 * BLOCK) || size > rest.len() {
            return damaged(
                format!("a trie of {size} bytes in {}", rest.len()),
                "a multiple of 1024 that fits",
            );
        }
        let (trie, replacements) = rest.split_at(size);
        let replacements = match std::str::from_utf8(replacements) {
            Ok(text) if text.is_empty() || text.ends_with('\0') => text.to_owned(),
            Ok(_) => return damaged("without an end".to_owned(), "a zero byte after the last replacement"),
            Err(error) => return damaged(format!("not UTF-8 ({error})"), "replacements in UTF-8"),
        };
        let (units, _) = trie.as_chunks::<4>();
        let units: Vec<Unit> = units.iter().map(|bytes| Unit(u32::from_le_bytes(*bytes))).collect();
        let map = Self { units, replacements };
        for (index, unit) in map.units.iter().enumerate() {
            if let Some(place) = unit.value() {
                if map.replacement(place).is_none() {
                    return damaged(format!("a replacement at {place}"), "one inside, of at most 1024 bytes");
                }
                continue;
            }
            let next = unit.children(index);
            let value = map.units.get(next).and_then(|unit| unit.value());
            if next | (BLOCK - 1) >= map.units.len() || (unit.has_value() && value.is_none()) {
                return damaged(format!("a step from {index} to {next}"), "one inside");
            }
        }
        Ok(map)
    }

    /// The rule of the longest prefix of `text` that has one: that prefix's length in bytes, and what replaces
    /// it. Only whole characters count.
    pub fn longest_match(&self, text: &str) -> Option<(usize, &str)> {
        let mut place = self.units.first()?.children(0);
        let mut longest = None;
        for (index, byte) in text.bytes().enumerate() {
            place ^= usize::from(byte);
            let Some(&unit) = self.units.get(place).filter(|unit| unit.follows(byte)) else { break };
            place = unit.children(place);
            if unit.has_value() && text.is_char_boundary(index + 1) {
                longest = Some((index + 1, self.units.get(place)?.value()?));
            }
        }
        longest.and_then(|(length, place)| Some((length, self.replacement(place)?)))
    }

    /// None when it is not inside or too long.
    fn replacement(&self, place: usize) -> Option<&str> {
        let text = self.replacements.get(place..)?;
        let window = &text.as_bytes()[..text.len().min(MAX_REPLACEMENT_BYTES + 1)];
        text.get(..window.iter().position(|&byte| byte == 0)?)
    }

    /// The map as [`Self::decode`] reads it.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = (4 * self.units.len() as u32).to_le_bytes().to_vec();
        bytes.extend(self.units.iter().flat_map(|unit| unit.0.to_le_bytes()));
        bytes.extend(self.replacements.as_bytes());
        bytes
    }
}

impl From<Charsmap> for String {
    fn from(map: Charsmap) -> Self {
        STANDARD.encode(map.encode())
    }
}

impl TryFrom<String> for Charsmap {
    type Error = CharsmapError;

    fn try_from(text: String) -> Result<Self, CharsmapError> {
        let base64 = |error| CharsmapError { got: format!("not base64 ({error})"), expected: "base64" };
        Self::decode(&STANDARD.decode(text).map_err(base64)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `a` → `x`, `ab` → nothing, by hand: the children of the root lie from 0 on, those of `a` in the second
    /// block, those of `ab` in the third.
    fn blob() -> Vec<u8> {
        let mut units = vec![0_u32; 3 * BLOCK];
        let (a, b) = (usize::from(b'a'), BLOCK ^ usize::from(b'b'));
        let node = |label: u8, at: usize, children: usize| {
            ((at ^ children) as u32) << 10 | 1 << 8 | u32::from(label)
        };
        units[a] = node(b'a', a, BLOCK);
        units[BLOCK] = Unit::VALUE;
        units[b] = node(b'b', b, 2 * BLOCK);
        units[2 * BLOCK] = Unit::VALUE | 2;
        let mut bytes = (4 * units.len() as u32).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(b"x\0\0");
        bytes
    }

    #[test]
    fn the_longest_prefix_wins() {
        let map = Charsmap::decode(&blob()).unwrap();
        assert_eq!(map.longest_match("abc"), Some((2, "")));
        assert_eq!(map.longest_match("acb"), Some((1, "x")));
        for text in ["", "b", "\0", "ba", "é"] {
            assert_eq!(map.longest_match(text), None, "{text:?}");
        }
        assert_eq!(map.encode(), blob());
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<Charsmap>(&json).unwrap(), map);
    }

    #[test]
    fn a_map_that_leads_outside_is_refused() {
        let error = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = blob();
            change(&mut bytes);
            Charsmap::decode(&bytes).unwrap_err().to_string()
        };
        let unit = |value: u32| move |bytes: &mut Vec<u8>| bytes[4..8].copy_from_slice(&value.to_le_bytes());
        assert!(error(&|bytes| bytes.truncate(3)).contains("3 bytes, expected a header"));
        assert!(error(&|bytes| bytes.truncate(1000)).contains("a trie of 3072 bytes in 996"));
        assert!(error(&|bytes| bytes[0] = 4).contains("a multiple of 1024"));
        assert!(error(&unit((3 * 256) << 10)).contains("a step from 0 to 768"));
        assert!(error(&unit(1 << 8)).contains("a step from 0 to 0"));
        assert!(error(&unit(Unit::VALUE | 3)).contains("a replacement at 3"));
        assert!(error(&|bytes| *bytes.last_mut().unwrap() = 0xff).contains("not UTF-8"));
        assert!(error(&|bytes| *bytes.last_mut().unwrap() = b'y').contains("without an end"));
        let long = |bytes: &mut Vec<u8>| {
            bytes.truncate(4 + 3072);
            bytes.extend([b'x'; 1025]);
            bytes.push(0);
        };
        assert!(error(&long).contains("a replacement at 0"));
        let base64 = serde_json::from_str::<Charsmap>("\"?\"").unwrap_err().to_string();
        assert!(base64.contains("not base64"), "{base64}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_damaged_map_is_refused_or_harmless(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            length in 0..=blob().len(),
            cut in prop::bool::weighted(0.2),
            text in "[ab\u{0}é\u{301}中]{0,12}",
        ) {
            let mut bytes = blob();
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(if cut { length } else { bytes.len() });
            if let Ok(map) = Charsmap::decode(&bytes) {
                for (start, _) in text.char_indices() {
                    if let Some((length, replacement)) = map.longest_match(&text[start..]) {
                        prop_assert!(length > 0 && text.is_char_boundary(start + length));
                        prop_assert!(replacement.len() <= MAX_REPLACEMENT_BYTES);
                    }
                }
            }
        }
    }
}
