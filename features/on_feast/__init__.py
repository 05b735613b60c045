"""Feast: our views as its definitions, our stores behind its interfaces."""
