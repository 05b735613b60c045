"""Requests that are handed on over HTTP, to processes of ours that hold models."""
