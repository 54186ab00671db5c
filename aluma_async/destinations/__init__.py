"""Destinations: one package for each kind, and the router that combines them."""
