"""The judge: what the stream and the reads say, against DuckDB over the raw events."""
