"""The mutation run: which mutations it finds."""

from collections import Counter

import pytest

from tests.mutation.__main__ import ROOT, equivalent, key
from tests.mutation.mutations import find_in_packages, find_mutations


def changes(source):
    return {mutation.after for mutation in find_mutations(source, "file.py")}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a < b", {"a <= b"}),
        ("a is None", {"a is not None"}),
        ("x = a in b", {"x = a not in b"}),
        ("x = c and (a or b)", {"x = (c or (a or b))", "x = c and ((a and b))"}),
        ("x = c and not (a or b)", {"x = (c or not (a or b))", "x = c and (a or b)", "x = c and not ((a and b))"}),
        ("x = a + b * c", {"x = a - b * c", "x = a + b / c"}),
        ("x += y", {"x -= y"}),
        ("x = 3", {"x = 4"}),
        ("x = 0.5, 0.0", {"x = 1.0, 0.0", "x = 0.5, 1.0"}),
        ("x = True", {"x = False"}),
        ("async def f(): await g(x)", {"async def f(): pass"}),
        ("def f(): return g(x)", {"def f(): return None"}),
        ("if a: b", {"if not a: b"}),
        ("@cache(size=3)\ndef f(x: 'int' = None) -> 5: x", set()),
        ("x = 'é'; y = 1", {"x = 'é'; y = 2"}),
    ],
)
def test_mutations_are_small_changes_of_the_text(before, after):
    assert changes(before) == after


def test_equivalent_mutations_exist_and_have_a_reason():
    """An entry that fits no mutation is removed, because the line that it excused has changed; none excuses two."""
    possible = Counter(key(mutation) for mutation in find_in_packages(ROOT, ["policy", "pipeline", "journal", "aluma"]))
    assert {entry: possible[entry] for entry in equivalent()} == dict.fromkeys(equivalent(), 1)
    assert all(reason.endswith(".") for reason in equivalent().values())


def test_mutated_line_runs_during_import_or_in_a_call():
    """A line that runs during import is tried with all tests that reach its module."""
    source = "A = 1\nclass B:\n    c: int = 2\n    def d(self, e=3):\n        f = 4\n"
    in_function = {mutation.after: mutation.in_function for mutation in find_mutations(source, "file.py")}
    assert in_function == {"A = 2": False, "c: int = 3": False, "def d(self, e=4):": False, "f = 5": True}
