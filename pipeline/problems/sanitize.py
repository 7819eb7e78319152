"""Sanitising of untrusted text and addresses before they are shown, stored or passed on.

Labels, error messages, records of other people's stores and server addresses end up in terminals,
logs, CSV files, Markdown and web pages. All characters that these would interpret, and all secrets,
are removed here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlencode

LONGEST = 1_000
"""Maximum length of a shown line; an exception's message may be of any length."""
HIDDEN = "***"
"""Replacement for a secret."""
HARMLESS = frozenset(
    {"endpoint", "region", "cache", "cache_gb", "charset", "driver", "sslmode", "timeout"}
)
"""Options of an address that are shown; values of all others are hidden as possible secrets."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters that make a spreadsheet treat a CSV cell as a formula."""

# the scheme is bounded in length and starts at a word; otherwise matching megabytes of text would
# take hours
_SCHEME = r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}"
_URL = re.compile(_SCHEME + r"://[^\s'\"<>]+")
_UNFINISHED = re.compile(rf"({_SCHEME}://)\S*$")
_ADDRESS = re.compile(_SCHEME + r":.*", re.DOTALL)
_SHORTEST_SECRET = 3
"""Minimum length of a secret; shorter ones would match by chance in any text."""


def printable(text: str) -> str:
    """Remove control and format characters: escape codes, line breaks, reversed text."""
    return "".join(letter if letter.isprintable() else "" for letter in text)


def clean(text: object, longest: int = LONGEST) -> str:
    """Reduce text to one printable line of about `longest` characters at most.

    Runs of white space become one space, secrets in addresses are hidden, and a cut is marked with
    the number of characters left out.
    """
    said = str(text)
    # messages may be megabytes long; only their beginning is processed
    head, cut = said[: 4 * longest], len(said) > 4 * longest
    if cut:
        # an address that was cut may end within its password
        head = _UNFINISHED.sub(rf"\1{HIDDEN}", head)
    head = printable(" ".join(scrubbed(head).split()))
    if len(head) <= longest and not cut:
        return head
    left_out = len(said) - min(longest, len(head))
    return f"{head[:longest].rstrip()} … ({left_out:,} more characters)"


def bounded(text: str, longest: int) -> str:
    """The end of a text of several lines, such as a traceback, if it is longer than `longest`."""
    if len(text) <= longest:
        return text
    return f"({len(text) - longest:,} characters left out) … {text[-longest:]}"


def shown_lines(text: str, longest: int = 20_000) -> list[str]:
    """The printable lines of a text such as a traceback, with indentation and without secrets."""
    return [printable(line) for line in scrubbed(bounded(text, longest)).splitlines()]


def csv_cell(text: str) -> str:
    """Text for a CSV cell, with a leading quote if a spreadsheet would treat it as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def markdown(text: str) -> str:
    """Neutralise HTML and links that lead out of the document's folder in Markdown.

    Applied to whole documents: the Markdown written by this program contains neither.
    """
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"\]\((?=\s*(?:[A-Za-z][A-Za-z0-9+.-]*:|//|\\|&lt;|<))", r"]\\(", text)


def without_secrets(address: str) -> str:
    """An address without user, password and fragment, and with the values of its options hidden.

    `http://me:pw@host/x?token=abc` becomes `http://host/x?token=***`. The options in `HARMLESS` are
    kept, and sanitised in turn if they are addresses. Text that is not an address is returned
    unchanged.
    """
    scheme, sign, rest = address.partition("://")
    if not sign:
        user, at, host = address.rpartition("@")
        return host if at and ":" in user else address
    place, question, query = _without_user(rest).partition("#")[0].partition("?")
    shown = f"{scheme}://{place}"
    if not question:
        return shown
    options = [
        (name, without_secrets(value) if name.lower() in HARMLESS else HIDDEN)
        for name, value in parse_qsl(query)
    ]
    # an option string that is not name=value may be anything
    return f"{shown}?{urlencode(options, safe='/:*') or HIDDEN}"


def page(address: str) -> str:
    """The address of a web server for links: no secrets, no options, no trailing slash."""
    return without_secrets(address).partition("?")[0].rstrip("/")


def command(words: Iterable[str]) -> list[str]:
    """The words of a command line, without secrets in the addresses among them.

    Bytes that are not UTF-8, as in a name of a file, become question marks: no page, database or
    Markdown can hold them.
    """
    shown = (word.encode(errors="replace").decode() for word in words)
    return [_ADDRESS.sub(lambda found: without_secrets(found[0]), word) for word in shown]


def scrubbed(text: str, *addresses: str) -> str:
    """Remove the secrets of addresses from a text such as a library's error message.

    addresses: further addresses whose secrets are removed in whatever form they occur.
    """
    for address in addresses:
        text = text.replace(address, without_secrets(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return _URL.sub(lambda found: without_secrets(found[0]), text)


def _without_user(rest: str) -> str:
    """The rest of an address after `scheme://`, without user and password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    port = authority.rpartition(":")[2] if ":" in authority else ""
    if port and not port.isdecimal() and "@" in rest and not authority.startswith("["):
        # the password contains a slash or question mark that should have been escaped
        return rest.rpartition("@")[2]
    return rest


def _secrets(address: str) -> set[str]:
    """Password, hidden options and fragment of an address, in escaped and unescaped spelling."""
    rest = address.partition("://")[2] or address
    kept = _without_user(rest)
    user, _, password = rest[: len(rest) - len(kept)].removesuffix("@").partition(":")
    place, _, fragment = kept.partition("#")
    # a user name occurs in many paths and is no secret by itself; a token without a password is
    found = [password or user, fragment]
    for name, value in parse_qsl(place.partition("?")[2], keep_blank_values=True):
        found += _secrets(value) if name.lower() in HARMLESS else [value]
    spelled = {form for secret in found for form in (secret, unquote(secret), quote(secret, ""))}
    return {secret for secret in spelled if len(secret) >= _SHORTEST_SECRET}
