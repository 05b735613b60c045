"""Feature views: declarations, their compilation to Flink and DuckDB SQL, online store, skew check."""
