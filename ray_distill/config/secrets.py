"""What no log, file, tracker or error may show, as ``***``."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
_USER = re.compile(r"(//[^:/@\s]*):[^/\s]*@")
_QUERY = re.compile(r"([?&][^=&\s]*(?:secret|token|password|signature|key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_NAMES = re.compile(r"(TOKEN|PASSWORD|SECRET|SECRET_ACCESS_KEY|API_KEY)$", re.IGNORECASE)
SHORTEST = 6  # of the environment's values: a shorter one stands in texts by chance


def mask(text: str) -> str:
    """``text`` without passwords and signatures of URIs, ``https://user:***@host?token=***``, and without what the
    environment's variables of tokens, passwords and secret keys hold."""
    text = _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1:{HIDDEN}@", text))
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _NAMES.search(name):
            text = text.replace(value, HIDDEN)
    return text


def masked(tree: Any) -> Any:
    """Plain JSON types, with every text masked."""
    if isinstance(tree, dict):
        return {key: masked(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [masked(value) for value in tree]
    return mask(tree) if isinstance(tree, str) else tree
