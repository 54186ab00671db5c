"""Code that several destinations share."""
