"""Clients of LLM servers with the OpenAI-compatible API. No model is loaded here."""
