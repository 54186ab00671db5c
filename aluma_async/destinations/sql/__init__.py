"""Tables of a database."""
