"""Adapter for Aluma's HTTP API: a ``TaskSource``."""
