"""Bad input and abuse, over every route and every frame of a whole gateway on the real services."""
