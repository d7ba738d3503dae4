"""The service: embeds pictures, keeps the index, answers lookups."""
