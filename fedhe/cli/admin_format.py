"""Numbers, times and foreign text as an admin reads them on a terminal (pure)."""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

MAX_SHOWN_CHARACTERS = 2000
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def printable(text: str) -> str:
    """`text` of another computer without what could steer a terminal, at most `MAX_SHOWN_CHARACTERS` long.

    Control and format characters (escape sequences, line breaks, text direction) become a visible replacement sign.
    """
    shown = text[:MAX_SHOWN_CHARACTERS]
    clean = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign)[0] == "C" else sign for sign in shown)
    return clean + "…" * (len(text) > len(shown))


def size(count: float) -> str:
    """Bytes in decimal units with three digits: 999 B, 1.23 MB."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        # 999.5 would be rounded to four digits
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == _UNITS[0]:
        return f"{value:.0f} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as the two largest units that count: 45 s, 3 min 20 s, 2 d 4 h; negative as 0 s."""
    left = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for length, unit in _STEPS:
        count, left = divmod(left, length)
        if count or parts:
            parts.append((count, unit))
    shown = [f"{count} {unit}" for count, unit in parts[:2] if count]
    return " ".join(shown) or "0 s"


def percent(fraction: float) -> str:
    """A fraction as whole percents, never rounded up to 100 % before the end."""
    return f"{int(100 * min(max(fraction, 0.0), 1.0))} %"


def metric(value: float | None) -> str | None:
    """A metric with four digits; None stays None."""
    return None if value is None else f"{value:.4g}"


def mean(values: Mapping[str, float] | None) -> float | None:
    """Mean over sites; None where there is nothing to average."""
    return fmean(values.values()) if values else None


def nearest(word: str, known: Sequence[str]) -> str | None:
    """A hint that names the nearest known word, or else all of a few known ones."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 10 else None


def count_of(number: int, thing: str) -> str:
    """`1 site`, `2 sites`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Words with commas, or a dash."""
    return ", ".join(words) or "-"
