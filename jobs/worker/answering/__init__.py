"""The worker's second host: asynchronous, bounded in flight, for what is asked and awaited."""
