"""The scoring worker: batch-first and columnar, from the enriched topic to the results topic."""
