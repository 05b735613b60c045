"""The `millstream` command: the composition root, the one place that knows every part."""
