"""Models in service, seen from outside a worker: who holds what, whether a swap is safe, sending commands."""
