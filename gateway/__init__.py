"""The door: publish over HTTP, be pushed over a WebSocket. Thin; it loads no model and runs no job."""
