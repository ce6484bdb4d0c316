//! A writer of GGUF files.

#[derive(Debug, Clone)]
pub struct File {
    pub version: u32,
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    /// The outermost first.
    pub shape: Vec<u64>,
    pub kind: u32,
    /// Where it is said to be; else where it is.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

const ALIGNMENT: usize = 32;

pub fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

/// A list of `count` elements of a type.
pub fn list(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

pub fn texts(values: &[&str]) -> Vec<u8> {
    list(8, values.len() as u64, &values.iter().flat_map(|value| text(value)).collect::<Vec<_>>())
}

pub fn f32_tensor(name: &str, shape: &[u64], value: impl Fn(usize) -> f32) -> Tensor {
    let count = shape.iter().product::<u64>() as usize;
    let data = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
    Tensor { name: name.to_owned(), shape: shape.to_vec(), kind: 0, offset: None, data }
}

impl File {
    pub fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.metadata.retain(|(name, ..)| name != key);
        self.metadata.push((key.to_owned(), kind, value));
    }

    pub fn set_u32(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes().to_vec());
    }

    pub fn set_text(&mut self, key: &str, value: &str) {
        self.set(key, 8, text(value));
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }

    /// A llama of one layer, two heads of width 4, and a vocabulary of four.
    pub fn llama() -> Self {
        let mut file = Self { version: 3, metadata: Vec::new(), tensors: Vec::new() };
        file.set_text("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            file.set_u32(&format!("llama.{key}"), value);
        }
        file.set("llama.attention.layer_norm_rms_epsilon", 6, 1e-5_f32.to_le_bytes().to_vec());
        file.set_text("tokenizer.ggml.model", "gpt2");
        file.set_text("tokenizer.ggml.pre", "gpt-2");
        file.set("tokenizer.ggml.tokens", 9, texts(&["a", "b", "ab", "<end>"]));
        file.set("tokenizer.ggml.merges", 9, texts(&["a b"]));
        let kinds: Vec<u8> = [1_i32, 1, 1, 3].iter().flat_map(|kind| kind.to_le_bytes()).collect();
        file.set("tokenizer.ggml.token_type", 9, list(5, 4, &kinds));
        file.set_u32("tokenizer.ggml.eos_token_id", 3);
        let values = |seed: usize| move |i: usize| ((i * 7 + seed) % 11) as f32 - 5.0;
        for (seed, (name, shape)) in [
            ("token_embd.weight", &[4, 8][..]),
            ("output_norm.weight", &[8]),
            ("blk.0.attn_norm.weight", &[8]),
            ("blk.0.attn_q.weight", &[8, 8]),
            ("blk.0.attn_k.weight", &[4, 8]),
            ("blk.0.attn_v.weight", &[4, 8]),
            ("blk.0.attn_output.weight", &[8, 8]),
            ("blk.0.ffn_norm.weight", &[8]),
            ("blk.0.ffn_gate.weight", &[12, 8]),
            ("blk.0.ffn_up.weight", &[12, 8]),
            ("blk.0.ffn_down.weight", &[8, 12]),
        ]
        .into_iter()
        .enumerate()
        {
            file.tensors.push(f32_tensor(name, shape, values(seed)));
        }
        file
    }
}
