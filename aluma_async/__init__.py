"""Exports finished tasks from Aluma, concurrently and without losing one."""

__version__ = "0.1.0"
