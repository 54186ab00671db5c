"""Database tables as a destination: rows of CSV and JSON files, or whole files."""
