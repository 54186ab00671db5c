"""``policy.naming``: any names from scanned pages give distinct paths below the root that are valid everywhere."""

import ntpath
import sys
import unicodedata
from cProfile import Profile
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.models import ExportFile
from aluma_async.policy import naming
from aluma_async.policy.naming import (
    INTERNAL_FOLDER,
    candidate_paths,
    collision_key,
    loose_key,
    owner_suffix,
    plan_paths,
    safe_path,
    with_suffix,
)

UNSAFE = ["..", ".", "", "/", "\\", "C:", "\\\\srv\\x", "~", "con", "NUL.txt", "COM¹", "a:b", "a. ", " ", "\0", "\n"]
TOO_LONG = ["x" * 300, "é" * 200, "🎉" * 80 + ".pdf", "a" * 400 + ".pdf"]
unsafe = st.sampled_from(
    [
        *UNSAFE,
        *TOO_LONG,
        "\u202e",
        "\ud800",
        ".aluma-async",
        ".ALUMA-ASYNC",
        "clock$",
        ".Alüma-async",
        "\N{FULLWIDTH FULL STOP}aluma\u0301-async",
    ]
)
text = st.lists(st.text(max_size=8) | unsafe, max_size=4).map("".join) | st.lists(unsafe, max_size=5).map("/".join)


def make_file(number, folder, filename):
    return ExportFile(number, 0, folder, filename, "url", url="/f")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt", "cafe.txt"),
        ("cafe\N{COMBINING ACUTE ACCENT}.txt", "CAFE.TXT"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e", "STRASSE"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}", "a"),
        ("a\N{SOFT HYPHEN}b", "ab"),
        ("a. .", "a"),
        ("a\N{FULLWIDTH FULL STOP}", "a"),
    ],
)
def test_loose_key_is_equal_for_names_that_some_server_confuses(one, other):
    assert loose_key(("f", one)) == loose_key(("F", other))
    assert loose_key(("f", one)) != loose_key(("g", other))


@given(text, text)
def test_loose_key_is_equal_where_the_collision_key_is(one, other):
    first, second = safe_path("", one), safe_path("", other)
    if collision_key(first) == collision_key(second):
        assert loose_key(first) == loose_key(second)


def test_plan_paths_separates_names_that_are_equal_by_another_key():
    files = [make_file(n, "", name) for n, name in enumerate(["\N{LATIN SMALL LETTER E WITH ACUTE}.txt", "e.txt"])]
    assert [parts[0] for parts in plan_paths(files).values()][1] == "e.txt"
    assert [parts[0] for parts in plan_paths(files, loose_key).values()][1] == "e~2.txt"


@given(text, text)
def test_safe_path_is_below_the_root_and_valid_on_every_system(folder, filename):
    parts = safe_path(folder, filename)
    assert parts
    assert loose_key(parts[:1]) != INTERNAL_FOLDER
    for part in parts:
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= 255
        assert not set(part) & set('<>:"/\\|?*')
        assert not any(ord(c) < 32 for c in part)
        assert not part.endswith((".", " "))
        assert not part.startswith(" ")
        if sys.version_info >= (3, 13):
            assert not ntpath.isreserved(part)


@given(text, text)
def test_safe_path_is_stable_and_keeps_safe_names(folder, filename):
    parts = safe_path(folder, filename)
    assert safe_path("/".join(parts[:-1]), parts[-1]) == parts == safe_path(folder, filename)


@given(st.from_regex(naming._PLAIN, fullmatch=True) | text)
def test_fast_path_gives_the_same_part_as_sanitizing(part):
    assert naming._safe_part(part) == naming._sanitize(part)
    assert collision_key((part,)) == unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


@pytest.mark.parametrize(
    ("folder", "filename", "expected"),
    [
        ("", "00001.csv", "00001.csv"),
        ("invoices/2024/Dell", "1.pdf", "invoices/2024/Dell/1.pdf"),
        ("/etc", "passwd", "etc/passwd"),
        ("../../etc", "passwd", "etc/passwd"),
        ("a\\b", "INV/2024/001.pdf", "a/b/INV_2024_001.pdf"),
        ("", "A:B?.csv", "A_B_.csv"),
        ("", "con.txt", "_con.txt"),
        ("", "..", "_"),
        ("", "", "_"),
        (".aluma-async/staging", "x", "_.aluma-async/staging/x"),
    ],
)
def test_safe_path_of_typical_names(folder, filename, expected):
    assert "/".join(safe_path(folder, filename)) == expected


@given(st.text("abé", min_size=256, max_size=600))
def test_safe_path_truncates_long_names_but_keeps_them_distinct(stem):
    first, second = safe_path("", stem + "1.pdf"), safe_path("", stem + "2.pdf")
    assert first != second
    assert first[-1].endswith(".pdf")


@given(
    st.lists(st.tuples(text, text), max_size=8)
    | st.lists(st.sampled_from([("", "a"), ("", "A"), ("a", "b"), ("a/b", "c"), ("", "a~2")]), max_size=9)
)
def test_plan_paths_gives_distinct_paths_none_a_folder_of_another(names):
    planned = plan_paths([make_file(i, *name) for i, name in enumerate(names)])
    paths = list(planned.values())
    keys = [collision_key(parts) for parts in paths]
    assert keys == list(planned)
    assert len(set(keys)) == len(names)
    folders = {collision_key(parts[:depth]) for parts in paths for depth in range(1, len(parts))}
    assert not folders & set(keys)


def test_plan_paths_numbers_files_of_the_same_name():
    paths = plan_paths([make_file(0, "x", "a.pdf"), make_file(1, "x", "A.pdf"), make_file(2, "x", "a.pdf")])
    assert ["/".join(parts) for parts in paths.values()] == ["x/a.pdf", "x/A~2.pdf", "x/a~3.pdf"]


@pytest.mark.parametrize(
    "name_of",
    [
        lambda _: "a.pdf",
        lambda number: ["a.pdf", "A.pdf", "a.PDF", "A.PDF"][number % 4],
        lambda number: f"a~{number // 2}.pdf" if number % 2 else "a.pdf",
        lambda number: f"{number % 50}.pdf",
        lambda number: f"{'x' * 247}{number // 2:04}.pdf",
        lambda number: f"{number // 2:04}.{'x' * 240}",
        lambda _: "é" * 500,
    ],
    ids=["equal", "case", "numbered", "interleaved", "long", "long extension", "truncated"],
)
def test_plan_paths_takes_linear_time_when_names_are_equal(name_of):
    """A task may have thousands of documents of one name, and the event loop waits for their paths."""
    small, large = (count_calls(name_of, files) for files in (100, 800))
    assert large < 12 * small


def count_calls(name_of, files):
    """Return the number of function calls that planning the paths takes; check that all names are valid."""
    wanted = [make_file(number, "x", name_of(number)) for number in range(files)]
    profile = Profile()
    profile.enable()
    planned = plan_paths(wanted)
    profile.disable()
    assert len(planned) == files
    assert max(len(parts[-1].encode()) for parts in planned.values()) <= 255
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("name", ["a.pdf", "x" * 300, "é" * 127 + ".pdf", "a." + "x" * 250])
def test_candidate_paths_of_many_files_differ(name):
    """All files of a task are renamed at once if an earlier task has the same long names."""
    planned = plan_paths([make_file(number, "x", name) for number in range(200)]).values()
    renamed = [next(islice(candidate_paths(parts, "t"), 1, None)) for parts in planned]
    assert len({collision_key(parts) for parts in renamed}) == len(renamed)
    assert max(len(parts[-1].encode()) for parts in renamed) <= 255


def test_candidate_paths_of_a_task_whose_id_is_no_valid_text():
    assert next(islice(candidate_paths(("a",), "\ud800"), 1, None))


def test_owner_suffix_depends_only_on_the_task():
    suffix = owner_suffix("SWdh86taQhKwwpY0HUKD7Q")
    assert len(suffix) == 8
    assert with_suffix(("x", "a.pdf"), suffix) == ("x", f"a~{suffix}.pdf")
    assert len(with_suffix(("é" * 127 + ".pdf",), suffix)[0].encode()) <= 255


def test_plan_paths_reserves_the_folder_of_the_exporters_own_file():
    """A file that would be in it gets an underscore before the folder's name; other folders keep theirs."""
    wanted = [("manifests", "a.pdf"), ("MANIFESTS/x", "b.pdf"), ("other/manifests", "c.pdf"), ("", "manifests")]
    files = [make_file(number, *name) for number, name in enumerate(wanted)]
    paths = plan_paths(files, own=make_file(4, "manifests", "t.json")).values()
    assert ["/".join(parts) for parts in paths] == [
        "_manifests/a.pdf",
        "_MANIFESTS/x/b.pdf",
        "other/manifests/c.pdf",
        "_manifests~2",
        "manifests/t.json",
    ]


@pytest.mark.parametrize(
    "name", [".aluma-async", ".ALUMA-ASYNC", ".\uff41luma-async", ".aluma-\u00e4sync", ".aluma\u00ad-async"]
)
def test_safe_path_is_not_in_the_folder_of_the_exporter(name):
    """Not even on a server that ignores case, width, accents and invisible characters."""
    assert safe_path(name, "a.pdf") == (f"_{name}", "a.pdf")
    assert safe_path(f"x/{name}", "a.pdf") == ("x", name, "a.pdf")
