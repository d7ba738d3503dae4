"""Embeddings: which model, the network itself, and the batcher that feeds it."""
