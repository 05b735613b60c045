"""Asking over Kafka: publish a request, await its reply, answer. No gateway holds what another needs."""
