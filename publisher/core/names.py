"""Checks of names that callers give: of images, accounts, appliances, users, keys and files."""

from __future__ import annotations

from publisher.core.errors import InvalidRequest

NAME_MAX = 255
"""In characters."""
_FILE_NAME_BYTES = 200
"""In bytes. Linux allows 255 (NAME_MAX)."""
_BASIC_PLANE_END = 0xFFFF


def check_name(name: str, field: str, *, longest: int = NAME_MAX, trimmed: bool = True) -> str:
    """Return the name if lists, logs and terminals can show it. Raises `InvalidRequest` otherwise.

    `trimmed`: refuse blanks at either end.
    """
    if not name:
        raise InvalidRequest(f"is needed: 1 to {longest} characters", field=field)
    if len(name) > longest:
        raise InvalidRequest(f"has 1 to {longest} characters, not {len(name)}", field=field)
    check_text(name, field)
    if name.isspace():
        raise InvalidRequest("consists of blanks only; give a name that can be seen", field=field)
    check_line(name, field)
    if trimmed and name != name.strip():
        raise InvalidRequest("has a blank at its beginning or end; leave it out", field=field)
    return name


def check_text(text: str, field: str) -> str:
    """Check a text, which may have several lines. Raises `InvalidRequest`."""
    if not text.isascii() and any(_is_undecoded(each) for each in text):
        raise InvalidRequest("is not UTF-8; send it encoded in UTF-8", field=field)
    return text


def check_line(text: str, field: str) -> str:
    """Check a text of one line. Raises `InvalidRequest`."""
    if text.isprintable():
        return text
    for position, each in enumerate(text):
        if not each.isprintable():
            what = "a line break" if each in "\r\n\x0b\x0c\x85\u2028\u2029" else "a character that cannot be shown"
            raise InvalidRequest(f"has {what} (U+{ord(each):04X}) at position {position}; leave it out", field=field)
    return text


def check_basic_plane(name: str, field: str, cloud: str) -> None:
    """Refuse characters that take four bytes in UTF-8 (emoji and rare scripts), for clouds that do not accept them.
    Raises `InvalidRequest`."""
    if name.isascii():
        return
    for each in name:
        if ord(each) > _BASIC_PLANE_END:
            raise InvalidRequest(f"has the character U+{ord(each):04X}, which {cloud} does not take", field=field)


def safe_name(name: str) -> str:
    """Turn any name into a safe file name: no directory, not hidden, not too long."""
    kept = "".join(each if each.isprintable() and each not in "/\\\0" else "_" for each in name).lstrip(".")
    # Keep the end of the name: people recognise the format by it.
    encoded = kept.encode()[-_FILE_NAME_BYTES:]
    return encoded.decode(errors="ignore") or "image"


def _is_undecoded(character: str) -> bool:
    """Return whether this stands for invalid UTF-8: U+FFFD from HTTP, a lone surrogate from the command line."""
    return character == "\ufffd" or "\ud800" <= character <= "\udfff"
