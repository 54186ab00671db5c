"""Listeners and views for administrators: logs, progress, metrics, health, notifications, traces."""
