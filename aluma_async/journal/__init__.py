"""Journals: open claims, cool-downs and the history of exported tasks, in memory or in SQLite."""
