"""Engines: what runs a model file. ONNX Runtime scores and explains."""
