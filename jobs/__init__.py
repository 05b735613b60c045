"""Everything long-running, bound to its engine."""
