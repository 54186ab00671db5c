"""Where files go; each module is one destination."""
