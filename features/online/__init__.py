"""The online form of a view: what is needed to answer for any time now."""
