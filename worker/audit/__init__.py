"""Whether catalogue, embeddings, index and overlay say the same, and what to do where they do not."""
