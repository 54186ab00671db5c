"""Paths of the project, and the hashes of exported files."""

import hashlib
from collections import Counter
from pathlib import Path

from aluma_async.testing import SimulatedAluma

ROOT = Path(__file__).parents[2]
"""The top folder of the project."""


def hash_files(root):
    """Count the SHA-256 hashes of all exported files below ``root``."""
    files = [path for path in root.rglob("*") if path.is_file() and ".aluma-async" not in path.parts]
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


def expected_hashes(tasks, **options):
    """Count the hashes of the files that so many simulated tasks contain."""
    aluma = SimulatedAluma(tasks, now=lambda: 0.0, **options)
    return Counter(hashlib.sha256(content).hexdigest() for task in aluma.ids() for *_, content in aluma.expected(task))
