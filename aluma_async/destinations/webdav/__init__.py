"""A folder on a WebDAV server."""
