"""The process that makes vectors of texts."""
