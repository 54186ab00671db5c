"""A folder on a local disk or a share."""
