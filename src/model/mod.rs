//! The only room that knows ONNX Runtime: sessions, caches, the operators of our own.
