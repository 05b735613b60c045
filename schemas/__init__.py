"""Record types, their compilation to Avro, topics, the codec between bytes, records and columns."""
