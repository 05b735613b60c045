"""The Flink side: submitting, watching and resuming the SQL job of a pipeline."""
