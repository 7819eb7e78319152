"""How large integrity cards may be; apart from them, since the command line's help names it."""

from __future__ import annotations

from typing import Literal, get_args

CardSize = Literal["full", "quarter", "none"]
CARD_SIZES: tuple[CardSize, ...] = get_args(CardSize)
