"""Logs, metrics, traces, and the probe that every long-running process serves."""
