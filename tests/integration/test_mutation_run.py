"""The mutation run reports the mutations that no test notices."""

from tests.mutation.__main__ import run
from tests.mutation.mutations import find_in_packages

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
