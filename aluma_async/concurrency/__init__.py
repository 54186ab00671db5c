"""Primitives for many callers: group commit, and one timer for many cancel scopes."""
