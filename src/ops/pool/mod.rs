//! Pooling of token vectors to one vector a sequence.
