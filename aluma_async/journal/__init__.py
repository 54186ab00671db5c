"""Journals: open claims, cool-downs and exported tasks, kept in memory or in SQLite."""
