"""Signs in an unknown field of a JSON object that the object does not contain everything. Pure."""

import re

_NEXT_PAGE = re.compile(
    r"(@odata\.)?next(_?(page|link|url|cursor|token)\w*)?|has_?(more|next)\w*|more|continuation\w*|(is_?)?truncated",
    re.IGNORECASE,
)
_ERROR = re.compile(r"errors?|exception|fault", re.IGNORECASE)
_SUCCESS = re.compile(r"success|successful|succeeded|ok", re.IGNORECASE)
_TOTAL = re.compile(r"total(_?(count|results|tasks|items|documents|files))?|count", re.IGNORECASE)
_FILE_COUNT = re.compile(r"total_?(documents|files)|(document|file)s?_?count", re.IGNORECASE)


def sign_of_missing(name: str, value: object) -> str:
    """Return what a field says about a missing part; empty if it says nothing."""
    if value and _NEXT_PAGE.fullmatch(name):
        return "names a next page"
    if value and _ERROR.fullmatch(name):
        return "reports an error"
    if value is False and _SUCCESS.fullmatch(name):
        return "reports an error"
    return ""


def announced_total(name: str, value: object, *, of_files: bool = False) -> int:
    """Return the number of members that a field announces; 0 if it announces none.

    ``of_files``: only a field that names files or documents does, because a document may have totals of its own.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9 or value != int(value):
        return 0
    announces = _FILE_COUNT.fullmatch(name) or (not of_files and _TOTAL.fullmatch(name))
    return int(value) if announces else 0
