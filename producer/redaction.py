"""Takes what may be secret out of text that people read or that is kept: logs, errors, dead letters, reprs."""

from __future__ import annotations

import re

HIDDEN = "…"

_ADDRESS = re.compile(
    # A scheme is looked for once in each run of its characters: else a long run takes its length squared.
    r"(?P<scheme>(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]++://)"
    # In an address of the web "@" may stand in a path; elsewhere a password may hold anything.
    r"(?P<user>(?:(?<=http://)|(?<=https://))[^\s/?#\"'<>]*@|(?<!http://)(?<!https://)[^\s\"'<>]*@)?"
    r"(?P<rest>[^\s?#\"'<>]*)(?P<query>\?[^\s#\"'<>]*)?(?P<fragment>#[^\s\"'<>]*)?"
)
_HARMLESS = re.compile(
    r"\?(?:(?:w|h|width|height|size|s|q|quality|v|ver|version|rev|fm|format|fit|crop|dpr|auto)"
    r"=[A-Za-z0-9_.,x-]{0,20}(?:&|$))*"
)
"""Queries that only say how large or how new a picture is: all others may hold a signature or a token."""


def without_secrets(text: str) -> str:
    """The text; of each address without user, password and fragment, and without a query that may sign it."""
    return _ADDRESS.sub(_bare, text)


def has_secrets(text: str) -> bool:
    """Whether `without_secrets` takes something out of it."""
    return without_secrets(text) != text


def _bare(found: re.Match[str]) -> str:
    parts = found.groupdict(default="")
    user = f"{HIDDEN}@" if parts["user"] else ""
    query = parts["query"] if _HARMLESS.fullmatch(parts["query"] or "?") else f"?{HIDDEN}"
    return f"{parts['scheme']}{user}{parts['rest']}{query}"
