"""Numbers as people read them, and names from outside as a terminal can bear them."""


def sanitize(text: str, limit: int = 500) -> str:
    """Cut to ``limit`` characters, with ``?`` for what could steer a terminal or forge a line of a log."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)


def format_bytes(count: float) -> str:
    """Write a number of bytes with a decimal unit: ``81.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """Write a duration in its two biggest units: ``42 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    parts = (
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    )
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [f"{count} {unit}" for count, unit in parts[first : first + 2] if count]
    return " ".join(shown) or "0 s"


def pluralize(count: int, noun: str) -> str:
    """Write ``1 task``, ``2 tasks``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
