"""The named sinks. Each says in its docstring when a write counts as done."""
