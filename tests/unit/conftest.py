"""The fixture that all unit tests use."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def fsync_without_waiting():
    """Check only the descriptor, because the time that a disk needs is no matter of unit tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield
