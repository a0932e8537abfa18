"""Names that become the names of files. A name out of a file becomes a path only if it passed here."""

from __future__ import annotations

_MOST_BYTES = 100  # file systems take 255, and what is made of a name adds to it
_MARKS = "._- "
# Windows opens its devices under these names, in every folder and with every ending.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{kind}{digit}" for kind in ("com", "lpt") for digit in range(1, 10)),
}

RULE = "letters, digits, `.`, `_`, `-` and single spaces, a letter or digit first and no `.` or space last"


def file_name(name: str) -> str:
    """`name`, if it can name a file on every system and lies in the folder that it is put in. Raises ValueError."""
    if len(name.encode("utf-8", "replace")) > _MOST_BYTES:
        raise ValueError(f"is longer than {_MOST_BYTES} bytes; shorten it")
    is_plain = name[:1].isalnum() and all(letter.isalnum() or letter in _MARKS for letter in name)
    if not is_plain or name[-1] in ". " or "  " in name:
        raise ValueError(f"must be {RULE}")
    if name.partition(".")[0].strip().lower() in _DEVICES:
        raise ValueError(f"must not be the name of a device, {name!r}; choose another")
    return name


def revision_name(name: str) -> str:
    """`name`, if it can be a branch, tag or commit, and no part of it leads out of a folder. Raises ValueError."""
    parts = name.split("/")
    letters = all(letter.isalnum() or letter in "._-+=#@" for part in parts for letter in part)
    if not letters or not all(part[:1].isalnum() and part[-1] != "." and ".." not in part for part in parts):
        raise ValueError(
            "must be a branch, tag or commit: letters, digits and `._-+=#@`, with `/` between two of them"
        )
    if len(name.encode()) > 2 * _MOST_BYTES:
        raise ValueError(f"is longer than {2 * _MOST_BYTES} bytes; shorten it")
    return name


def fitting_name(text: str, otherwise: str) -> str:
    """A name for a file that is like `text`; `otherwise` where nothing of it can stand in one."""
    plain = "".join(letter if letter.isalnum() or letter in _MARKS else "-" for letter in text)
    plain = " ".join(plain.split()).lstrip("._- ")
    plain = plain.encode("utf-8")[:_MOST_BYTES].decode("utf-8", "ignore").rstrip(". ")
    try:
        return file_name(plain)
    except ValueError:
        return otherwise
