"""Schedules of faults and crashes in virtual time."""
