"""Engines: what runs a model file. ONNX Runtime and XGBoost's library score, ONNX Runtime explains."""
