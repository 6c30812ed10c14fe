//! The model against the engine.
