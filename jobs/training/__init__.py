"""Training: from recorded events to a published, verified model."""
