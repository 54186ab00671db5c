"""Mutation run: small changes of the source, each of which a test must notice (``python -m tests.mutation``)."""
