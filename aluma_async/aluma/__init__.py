"""The API adapter: Aluma over HTTP as a ``TaskSource``."""
