"""Training a model that says how much there will be, of several series at once."""
