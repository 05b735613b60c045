"""History on DuckDB, out of core: features over recorded events, training sets, corrections."""
