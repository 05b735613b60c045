"""Training a model that tells two classes apart."""
