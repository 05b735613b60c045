"""What can happen to records, on columns. The outside comes in through `ports`: no engine, no client."""
