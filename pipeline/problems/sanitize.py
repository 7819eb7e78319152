"""Text and addresses from elsewhere, made fit to be shown, stored and passed on.

Labels, error messages, records of other people's stores and addresses of servers reach
terminals, logs, CSV files, Markdown and web pages. What each of these would act on is taken out
here, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlencode

LONGEST = 1_000
"""Characters of a line that is shown; what an exception says has no bound of its own."""
HIDDEN = "***"
"""What stands in place of a secret."""
HARMLESS = frozenset(
    {"endpoint", "region", "cache", "cache_gb", "charset", "driver", "sslmode", "timeout"}
)
"""Options of an address that are shown; the value of any other may be a secret."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet take a cell of a CSV file for a formula."""

# the length of a scheme is bounded, and it begins a word: else a text of megabytes takes hours
_SCHEME = r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}"
_URL = re.compile(_SCHEME + r"://[^\s'\"<>]+")
_UNFINISHED = re.compile(rf"({_SCHEME}://)\S*$")
_ADDRESS = re.compile(_SCHEME + r":.*", re.DOTALL)
_SHORTEST_SECRET = 3
"""Fewer characters would be found by chance everywhere in a text."""


def printable(text: str) -> str:
    """Without control and format characters: no escape codes, line breaks or reversed text."""
    return "".join(letter if letter.isprintable() else "" for letter in text)


def clean(text: object, longest: int = LONGEST) -> str:
    """One printable line of at most about `longest` characters; a longer one says what is left out.

    Runs of white space become one space, and addresses lose their secrets.
    """
    said = str(text)
    # a message of megabytes is not looked at whole
    head, cut = said[: 4 * longest], len(said) > 4 * longest
    if cut:
        # half of an address cannot be told to be without a password
        head = _UNFINISHED.sub(rf"\1{HIDDEN}", head)
    head = printable(" ".join(scrubbed(head).split()))
    if len(head) <= longest and not cut:
        return head
    left_out = len(said) - min(longest, len(head))
    return f"{head[:longest].rstrip()} … ({left_out:,} more characters)"


def bounded(text: str, longest: int) -> str:
    """A text of several lines, such as a traceback: its end, where it is longer than `longest`."""
    if len(text) <= longest:
        return text
    return f"({len(text) - longest:,} characters left out) … {text[-longest:]}"


def shown_lines(text: str, longest: int = 20_000) -> list[str]:
    """The printable lines of a text such as a traceback, their indentation kept, no secrets."""
    return [printable(line) for line in scrubbed(bounded(text, longest)).splitlines()]


def csv_cell(text: str) -> str:
    """Text for a cell of a CSV file: a quote before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def markdown(text: str) -> str:
    """Markdown in which no HTML acts, and no link leads out of the folder that it lies in.

    To be applied to a whole document: its own Markdown has neither.
    """
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"\]\((?=\s*(?:[A-Za-z][A-Za-z0-9+.-]*:|//|\\|&lt;|<))", r"]\\(", text)


def without_secrets(address: str) -> str:
    """An address without user, password and fragment, the values of its options hidden.

    `http://me:pw@host/x?token=abc` becomes `http://host/x?token=***`. Options that are never
    secret stay (`HARMLESS`), cleaned in turn where they are addresses themselves. What is no
    address is returned as it is.
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
    # what has no name and value may be anything
    return f"{shown}?{urlencode(options, safe='/:*') or HIDDEN}"


def page(address: str) -> str:
    """The address of a web server as pages link to it: no secrets, no options, no last slash."""
    return without_secrets(address).partition("?")[0].rstrip("/")


def command(words: Iterable[str]) -> list[str]:
    """The words of a command line without the secrets of the addresses among them."""
    return [_ADDRESS.sub(lambda found: without_secrets(found[0]), word) for word in words]


def scrubbed(text: str, *addresses: str) -> str:
    """A text, such as a library's error, without the secrets of addresses, however written."""
    for address in addresses:
        text = text.replace(address, without_secrets(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return _URL.sub(lambda found: without_secrets(found[0]), text)


def _without_user(rest: str) -> str:
    """What follows `scheme://` without the user and password that it begins with."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    port = authority.rpartition(":")[2] if ":" in authority else ""
    if port and not port.isdecimal() and "@" in rest and not authority.startswith("["):
        # a password that holds a slash or a question mark, which should have been escaped
        return rest.rpartition("@")[2]
    return rest


def _secrets(address: str) -> set[str]:
    """Password, hidden options and fragment of an address, as written and with escapes resolved."""
    rest = address.partition("://")[2] or address
    kept = _without_user(rest)
    user, _, password = rest[: len(rest) - len(kept)].removesuffix("@").partition(":")
    place, _, fragment = kept.partition("#")
    # the name of a user is part of many paths, and alone it opens nothing; a token does
    found = [password or user, fragment]
    for name, value in parse_qsl(place.partition("?")[2], keep_blank_values=True):
        found += _secrets(value) if name.lower() in HARMLESS else [value]
    spelled = {form for secret in found for form in (secret, unquote(secret), quote(secret, ""))}
    return {secret for secret in spelled if len(secret) >= _SHORTEST_SECRET}
