"""Texts to vectors: all-MiniLM-L6-v2, from its wheel, on ONNX Runtime."""
