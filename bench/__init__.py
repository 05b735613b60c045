"""Named benchmarks, each with its peer in the same run: `millstream bench NAME [--json]`."""
