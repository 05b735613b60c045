"""Direct serving: HTTP to a process that has the models, without Kafka."""
