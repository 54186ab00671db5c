"""Signs in an unknown field of a JSON object that the object does not contain everything. Pure."""

import re

_NEXT_PAGE = re.compile(
    r"(@odata\.)?next.*|(has_?)?(more|next).*|continuation.*|(is_?)?(truncated|partial)", re.IGNORECASE
)
_ERROR = re.compile(r"errors?|exception|fault", re.IGNORECASE)
_SUCCESS = re.compile(r"success|successful|succeeded|ok|(is_?)?complete", re.IGNORECASE)
_TOTAL = re.compile(
    r"total(_?(count|results|tasks|items|documents|files))?|(document|file)s?_?count|count", re.IGNORECASE
)


def sign_of_missing(name: str, value: object) -> str:
    """Return what a field says about a missing part; empty if it says nothing."""
    if value and _NEXT_PAGE.fullmatch(name):
        return "names a next page"
    if value and _ERROR.fullmatch(name):
        return "reports an error"
    if value is False and _SUCCESS.fullmatch(name):
        return "reports an error"
    return ""


def announced_total(name: str, value: object) -> int:
    """Return the number of members that a field announces; 0 if it announces none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value < 1e9 and _TOTAL.fullmatch(name) else 0  # type: ignore[call-overload,operator]
