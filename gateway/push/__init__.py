"""Push with resume: what is on Kafka becomes frames, each with a position to come back from."""
