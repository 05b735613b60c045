"""Training as data: what a run is configured with, checked before any work, and when it comes due."""
