"""Runs of a view's own, beside what is deployed: for checking what the stream computes."""
