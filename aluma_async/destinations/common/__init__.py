"""Parts that several destinations share."""
