//! Checkpoint to artifact.
