"""The whole program as its users run it, and the rules of the project."""
