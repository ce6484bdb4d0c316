//! A reader of the pickles that `torch.save` writes. It runs nothing: of the calls in a pickle it knows those that
//! make tensors, parameters and ordered dictionaries, and takes any other for a value that nobody asks for.
//!
//! Values are kept in one list and name each other by their place in it. A pickle may name a value any number of
//! times and nest it to any depth; copies and recursion, which readers of trees need, would have no bound.

use std::collections::BTreeMap;

/// Longest name of a tensor, class or storage: a pickle may use one any number of times.
const MAX_NAME_BYTES: usize = 512;
const MAX_DIMENSIONS: usize = 8;

/// A tensor as a state dict has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// PyTorch's class of its elements, `FloatStorage` and the like.
    pub class: String,
    /// Name of its storage.
    pub storage: String,
    /// First element in the storage.
    pub first: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<u64>,
}

/// Place of a value.
type Id = usize;

#[derive(Debug)]
enum Value {
    /// What no tensor is made of.
    Other,
    Integer(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global {
        module: String,
        name: String,
    },
    Storage {
        class: String,
        key: String,
    },
    /// In a box, so that values of other kinds are small.
    Tensor(Box<StoredTensor>),
}

type Result<T> = std::result::Result<T, String>;

/// The tensors of a pickled state dict by name.
pub fn state_dict(pickle: &[u8]) -> Result<Vec<(String, StoredTensor)>> {
    let mut machine =
        Machine { input: pickle, position: 0, values: Vec::new(), stack: Vec::new(), memo: BTreeMap::new() };
    let root = machine.run()?;
    let Value::Dict(items) = &machine.values[root] else {
        return Err("not a state dict (tensors by name)".to_owned());
    };
    let mut tensors = BTreeMap::new();
    for &(key, value) in items {
        if let (Value::Text(name), Value::Tensor(tensor)) = (&machine.values[key], &machine.values[value]) {
            tensors.insert(name.as_str(), tensor.as_ref());
        }
    }
    Ok(tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect())
}

/// On the stack: a value, or the mark below which a group begins.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Value(Id),
    Mark,
}

struct Machine<'p> {
    input: &'p [u8],
    position: usize,
    values: Vec<Value>,
    stack: Vec<Slot>,
    memo: BTreeMap<u32, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let at = self.position;
            let [opcode] = self.array()?;
            match opcode {
                b'.' => return self.pop(),
                // PROTO and FRAME say nothing that matters here.
                0x80 => _ = self.array::<1>()?,
                0x95 => _ = self.array::<8>()?,
                b'(' => self.stack.push(Slot::Mark),
                b'0' => _ = self.stack.pop(),
                b'N' | 0x88 | 0x89 => self.push(Value::Other),
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()));
                }
                b'K' => {
                    let [value] = self.array()?;
                    self.push(Value::Integer(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()));
                }
                0x8a => {
                    let [length] = self.array()?;
                    let bytes = self.take(length.into())?;
                    let value = integer(bytes).ok_or_else(|| format!("an integer of {length} bytes"))?;
                    self.push(Value::Integer(value));
                }
                b'G' => {
                    self.array::<8>()?;
                    self.push(Value::Other);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.text(length.into())?;
                }
                0x8c => {
                    let [length] = self.array()?;
                    self.text(length.into())?;
                }
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.text(length)?;
                }
                b'B' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.skip(length.into())?;
                }
                b'C' => {
                    let [length] = self.array()?;
                    self.skip(length.into())?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global { module, name });
                }
                0x93 => {
                    let (name, module) = (self.pop_text()?, self.pop_text()?);
                    self.push(Value::Global { module, name });
                }
                b'}' => self.push(Value::Dict(Vec::new())),
                // Lists and sets are in no tensor.
                b']' | 0x8f => self.push(Value::Other),
                b')' => self.push(Value::Tuple(Vec::new())),
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Value::Tuple(items));
                }
                b't' => {
                    let items = self.pop_group()?;
                    self.push(Value::Tuple(items));
                }
                b'd' => {
                    let items = self.pop_group()?;
                    self.push(Value::Dict(Vec::new()));
                    self.set(&items)?;
                }
                b'l' => {
                    self.pop_group()?;
                    self.push(Value::Other);
                }
                b'a' => _ = self.pop()?,
                b'e' | 0x90 => _ = self.pop_group()?,
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set(&items)?;
                }
                b'u' => {
                    let items = self.pop_group()?;
                    self.set(&items)?;
                }
                // The state of an object: of a state dict, its metadata.
                b'b' => _ = self.pop()?,
                b'q' => {
                    let [key] = self.array()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [key] = self.array()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id).ok_or("a reference to something other than a storage")?;
                    self.push(storage);
                }
                b'R' | 0x81 => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                other => {
                    return Err(format!(
                        "the instruction {other:#04x} at byte {at}, which no state dict has"
                    ));
                }
            }
        }
    }

    /// `('storage', class, key, location, elements)`
    fn storage(&self, id: Id) -> Option<Value> {
        let &[kind, class, key, ..] = self.tuple(id)? else { return None };
        match (&self.values[kind], &self.values[class], &self.values[key]) {
            (Value::Text(kind), Value::Global { name, .. }, Value::Text(key))
                if kind == "storage" && name.len().max(key.len()) <= MAX_NAME_BYTES =>
            {
                Some(Value::Storage { class: name.clone(), key: key.clone() })
            }
            _ => None,
        }
    }

    fn call(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let name = match &self.values[callable] {
            Value::Global { module, name } => (module.as_str(), name.as_str()),
            _ => ("", ""),
        };
        match name {
            ("collections", "OrderedDict") => self.push(Value::Dict(Vec::new())),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let tensor = self.tensor(arguments).ok_or("a tensor with arguments of other kinds")?;
                self.push(Value::Tensor(Box::new(tensor)));
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                match self.tuple(arguments).and_then(|arguments| arguments.first()) {
                    Some(&tensor) => self.stack.push(Slot::Value(tensor)),
                    None => return Err("a parameter without a tensor".to_owned()),
                }
            }
            _ => self.push(Value::Other),
        }
        Ok(())
    }

    /// `(storage, first element, shape, strides, …)`
    fn tensor(&self, arguments: Id) -> Option<StoredTensor> {
        let &[storage, first, shape, strides, ..] = self.tuple(arguments)? else { return None };
        let Value::Storage { class, key } = &self.values[storage] else { return None };
        let unsigned = |&id: &Id| match self.values[id] {
            Value::Integer(value) => u64::try_from(value).ok(),
            _ => None,
        };
        let (shape, strides) = (self.tuple(shape)?, self.tuple(strides)?);
        if shape.len().max(strides.len()) > MAX_DIMENSIONS {
            return None;
        }
        let shape = shape.iter().map(|id| usize::try_from(unsigned(id)?).ok());
        Some(StoredTensor {
            class: class.clone(),
            storage: key.clone(),
            first: unsigned(&first)?,
            shape: shape.collect::<Option<_>>()?,
            strides: strides.iter().map(unsigned).collect::<Option<_>>()?,
        })
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Puts keys and values that follow one another into the dictionary on top of the stack.
    fn set(&mut self, items: &[Id]) -> Result<()> {
        let Some(&Slot::Value(dict)) = self.stack.last() else {
            return Err("items without a dictionary".to_owned());
        };
        if let Value::Dict(pairs) = &mut self.values[dict] {
            pairs.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        match self.stack.last() {
            Some(&Slot::Value(id)) => _ = self.memo.insert(key, id),
            _ => return Err("nothing to remember".to_owned()),
        }
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("the value {key}, which is not there yet"))?;
        self.stack.push(Slot::Value(id));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(Slot::Value(self.values.len()));
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.pop() {
            Some(Slot::Value(id)) => Ok(id),
            _ => Err("a value that is not there".to_owned()),
        }
    }

    fn pop_text(&mut self) -> Result<String> {
        let id = self.pop()?;
        match &self.values[id] {
            Value::Text(text) if text.len() <= MAX_NAME_BYTES => Ok(text.clone()),
            _ => Err("a name that is not a short text".to_owned()),
        }
    }

    /// So many values, the lowest first.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    /// The values down to the last mark, the lowest first.
    fn pop_group(&mut self) -> Result<Vec<Id>> {
        let mut items = Vec::new();
        loop {
            match self.stack.pop() {
                Some(Slot::Value(id)) => items.push(id),
                Some(Slot::Mark) => break,
                None => return Err("a group without a beginning".to_owned()),
            }
        }
        items.reverse();
        Ok(items)
    }

    fn text(&mut self, length: u64) -> Result<()> {
        let bytes = self.take(length)?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| format!("a text: {error}"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.take(length)?;
        self.push(Value::Other);
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.input[self.position..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("a name without an end")?;
        let line = str::from_utf8(&rest[..length]).map_err(|error| format!("a name: {error}"))?.to_owned();
        self.position += length + 1;
        Ok(line)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?;
        bytes.try_into().map_err(|_| "cut short".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&[u8]> {
        let rest = &self.input[self.position..];
        let length = usize::try_from(length).ok().filter(|&length| length <= rest.len());
        let length = length.ok_or_else(|| format!("cut short at byte {}", self.position))?;
        self.position += length;
        Ok(&rest[..length])
    }
}

/// A little-endian integer in two's complement.
fn integer(bytes: &[u8]) -> Option<i64> {
    let mut whole = [if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 }; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORAGE: &[u8] = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x06tQ";

    fn pickle(value: &[u8]) -> Vec<u8> {
        [b"\x80\x02}X\x01\x00\x00\x00w", value, b"s."].concat()
    }

    #[test]
    fn a_tensor_or_parameter_is_found_by_its_name() {
        let tensor =
            [b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, b"K\x02K\x02K\x03\x86K\x03K\x01\x86\x89NtR"]
                .concat();
        let expected = StoredTensor {
            class: "FloatStorage".to_owned(),
            storage: "0".to_owned(),
            first: 2,
            shape: vec![2, 3],
            strides: vec![3, 1],
        };
        assert_eq!(state_dict(&pickle(&tensor)).unwrap(), [("w".to_owned(), expected.clone())]);
        let parameter = [b"ctorch._utils\n_rebuild_parameter\n(", tensor.as_slice(), b"\x88NtR"].concat();
        assert_eq!(state_dict(&pickle(&parameter)).unwrap(), [("w".to_owned(), expected)]);
    }

    #[test]
    fn other_calls_are_not_made() {
        let call = b"cos\nsystem\n(X\x02\x00\x00\x00lstR";
        assert_eq!(state_dict(&pickle(call)).unwrap(), []);
    }

    #[test]
    fn what_grows_in_other_readers_does_not_grow() {
        // Each pair holds the pair before twice; each tuple nests the one before.
        let doubled =
            [b"\x80\x02)q\x00".as_slice(), &b"h\x00h\x00\x86q\x00".repeat(100_000), b"0}."].concat();
        assert_eq!(state_dict(&doubled).unwrap(), []);
        let nested = [b"\x80\x02)".as_slice(), &b"\x85".repeat(1_000_000), b"0}."].concat();
        assert_eq!(state_dict(&nested).unwrap(), []);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = pickle(b"N");
        assert_eq!(state_dict(&whole).unwrap(), []);
        for length in 0..whole.len() {
            assert!(state_dict(&whole[..length]).is_err(), "{length} bytes");
        }
        for bytes in [
            &b"."[..],
            b"N.",
            b"t.",
            b"h\x07.",
            b"q\x00.",
            b"(.",
            b"s.",
            b"R.",
            b"NQ.",
            b"i.",
            b"X\xff\xff\xff\xff.",
        ] {
            assert!(state_dict(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn integers_have_a_sign() {
        assert_eq!([integer(&[]), integer(&[0xff]), integer(&[0, 1])], [Some(0), Some(-1), Some(256)]);
        assert_eq!(integer(&[0; 9]), None);
    }
}
