"""The documents of the API: OpenAPI 3.1 and AsyncAPI 3, made of what this gateway serves, and their page."""
