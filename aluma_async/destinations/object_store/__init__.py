"""A bucket of an object store."""
