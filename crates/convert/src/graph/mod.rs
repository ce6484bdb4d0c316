//! The graph builder: nodes named as addresses (`/decoder/layers.0/self_attn/qkv/Int8Linear`),
//! typed handles for values, and a method for each operation that the architectures use.
//!
//! ```ignore
//! let mut graph = GraphBuilder::new(Part::Decoder, &mut weights);
//! let inputs = DecoderInputs::declare(&mut graph, &geometry);
//! let fc1 = Linear { weight, bias, format };
//! let hidden = graph.activated_linear("/decoder/layers.0/mlp/fc1", inputs.x, fc1, Activation::Relu)?;
//! …
//! DecoderInputs::finish(&mut graph, &geometry, logits);
//! graph.write(&dir.join(DECODER_FILE))?;
//! ```

mod attention;
mod builder;
pub mod device;
mod interface;
mod linear;
mod node;
mod operations;

pub use attention::{Heads, KvCache, RotaryNorm, RotaryNorms, RowSlots, Sight, StateEntries};
pub use builder::{Added, Dim, GraphBuilder, Value};
pub use interface::{CrossInputs, DecoderInputs, EncoderInputs, RecurrentStates, SelfCaches};
pub use linear::{Linear, LinearFormat};
pub use node::Node;
pub use operations::{Norm, Stream};
