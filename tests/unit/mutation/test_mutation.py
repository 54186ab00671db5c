"""The mutation run: which mutations it finds, and that it reports those that no test notices."""

import pytest

from tests.mutation.__main__ import ROOT, equivalent, key, run
from tests.mutation.mutations import find_in_packages, find_mutations

SOURCE = """
LIMIT = 5


def is_large(number, limit=LIMIT, negate=False):
    return (number > limit) is not negate


def is_small(number):
    return number < 2
"""
TEST = """
from aluma_async.tiny.limits import is_large, is_small


def test_limits():
    assert is_large(6) and not is_large(5)
    is_small(0)
"""


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


def test_run_reports_only_the_mutations_that_no_test_notices(tmp_path):
    """A mutation is tried on a copy; the tests that run its lines decide."""
    root = tmp_path / "repository"
    for file, text in {
        "aluma_async/__init__.py": "",
        "aluma_async/tiny/__init__.py": "",
        "aluma_async/tiny/limits.py": SOURCE,
        "tests/unit/tiny/test_limits.py": TEST,
        "pyproject.toml": "",
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text, "utf-8")
    survivors = run(find_in_packages(root, ["tiny"]), root=root, full=False, jobs=1)
    assert {mutation.after for mutation in survivors} == {"return number <= 2", "return number < 3", "return None"}
    assert {mutation.function for mutation in survivors} == {"is_small"}
    assert (root / "aluma_async/tiny/limits.py").read_text("utf-8") == SOURCE


def test_equivalent_mutations_exist_and_have_a_reason():
    """An entry that fits no mutation is removed, because the line that it excused has changed."""
    possible = {key(mutation) for mutation in find_in_packages(ROOT, ["policy", "pipeline", "journal", "aluma"])}
    assert equivalent().keys() <= possible
    assert all(reason.endswith(".") for reason in equivalent().values())


def test_mutated_line_runs_during_import_or_in_a_call():
    """A line that runs during import is tried with all tests that reach its module."""
    source = "A = 1\nclass B:\n    c: int = 2\n    def d(self, e=3):\n        f = 4\n"
    in_function = {mutation.after: mutation.in_function for mutation in find_mutations(source, "file.py")}
    assert in_function == {"A = 2": False, "c: int = 3": False, "def d(self, e=4):": False, "f = 5": True}
