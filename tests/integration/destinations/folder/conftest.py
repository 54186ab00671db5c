"""The fixture of tests whose time limits are shorter than a busy disk may need."""

import os

import pytest


@pytest.fixture(autouse=True)
def fsync_without_waiting(monkeypatch):
    """Check only the descriptor, because the time that a disk needs is no matter of these tests."""
    monkeypatch.setattr(os, "fsync", os.fstat)
