"""``policy.naming``: the limits of names, paths and object keys."""

import pytest

from aluma_async.policy.naming import (
    MAX_NAME_BYTES,
    as_object_key,
    candidate_paths,
    fit_names,
    loose_key,
    owner_suffix,
    safe_path,
    with_suffix,
)


def test_names_of_255_bytes_are_kept_and_longer_ones_truncated():
    assert MAX_NAME_BYTES == 255
    assert safe_path("", "x" * 255) == ("x" * 255,)
    (name,) = safe_path("", "x" * 256)
    assert len(name) == 255
    assert name.startswith("x" * 246 + "~")


def test_extension_of_up_to_32_bytes_survives_truncation():
    """It includes the dot; a longer one is a part of the name."""
    short, long = "." + "e" * 31, "." + "e" * 32
    assert safe_path("", "x" * 300 + short)[0].endswith(short)
    assert not safe_path("", "x" * 300 + long)[0].endswith(long)


def test_folders_beyond_the_32nd_are_joined_into_it():
    names = tuple(str(number) for number in range(34))
    assert safe_path("/".join(names[:32]), "f") == (*names[:32], "f")
    assert safe_path("/".join(names[:33]), "f") == (*names[:31], "31_32", "f")
    assert safe_path("/".join(names), "f") == (*names[:31], "31_32_33", "f")


def test_only_the_first_folder_is_that_of_the_exporter():
    assert safe_path(".aluma-async/x", "f") == ("_.aluma-async", "x", "f")
    assert safe_path("x/.aluma-async", "f") == ("x", ".aluma-async", "f")
    assert safe_path("", ".ALUMA-async") == ("_.ALUMA-async",)


@pytest.mark.parametrize("length", [238, 239, 240])
def test_suffix_depends_on_the_name_only_if_it_may_be_truncated(length):
    """A name of up to 239 bytes leaves room for every suffix."""
    name = "x" * length
    first, second, third = (path for path, _ in zip(candidate_paths((name,), "t"), range(3), strict=False))
    suffix = owner_suffix("t" if length < 240 else f"t/{name}")
    assert (first, second) == ((name,), with_suffix((name,), suffix))
    assert third == with_suffix((name,), f"{suffix}~2")


def test_object_key_that_is_too_long_has_shorter_folders_and_a_hash():
    assert as_object_key(("a", "b", "c.pdf"), 9) == "a/b/c.pdf"
    long = ("f" * 60, "g" * 60, "c.pdf")
    assert as_object_key(long, 127) == "/".join(long)
    keys = [as_object_key(parts, 100) for parts in (long, ("f" * 60, "h" * 60, "c.pdf"))]
    assert [len(key) for key in keys] == [100, 100]
    assert len(set(keys)) == 2
    assert keys[0].startswith("f" * 60 + "/" + "g" * 24 + "~")
    assert all(key.endswith("/c.pdf") for key in keys)
    assert len(as_object_key(long, 126)) == 126


def test_names_fit_the_limit_of_a_file_system():
    assert fit_names(("a" * 143, "b" * 144), 143)[0] == "a" * 143
    assert len(fit_names(("a", "b" * 144), 143)[1]) == 143


def test_loose_key_ignores_dots_and_spaces_at_the_end_of_each_name():
    assert loose_key(("Folder. ", "A.PDF.")) == "folder/a.pdf"
    assert loose_key(("É", "\u200bx")) == "e/x"
