"""Runs several exporter processes side by side: ``--processes N``. The parent only supervises, and exports nothing."""
