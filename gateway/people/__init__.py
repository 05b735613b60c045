"""Users: how they log in, their second factor, their sessions, and the tokens that are issued to them."""
