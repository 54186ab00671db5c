"""Every implementation of a port against the public contract checks."""
