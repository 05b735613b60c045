"""Asking a pipeline: what its askers (the gateways) and its answerers (the workers) have in common."""
