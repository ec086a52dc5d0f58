"""How long to try it."""
