"""The name that was meant."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any


def nearest(kind: str, name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """The name itself, if it is one of ``names``; ``ValueError`` suggests the nearest otherwise."""
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, 1, cutoff=0.5)
    comma = "; " if any("," in one for one in names) else ", "
    hint = f"did you mean {close[0]!r}?" if close else f"there are {comma.join(names)}."
    own = " A problem of your own is FILE.py:FUNCTION." if kind == "problem" and not close else ""
    raise ValueError(f"there is no {kind} {name!r}: {hint}{own}")
