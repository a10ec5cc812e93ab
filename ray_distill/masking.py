"""Mask secrets as *** in text: passwords, tokens, presigned addresses.

A secret is recognised by its place (the password of an address, the value of a name such as ``api_key``), by its shape
(``hf_...``), or because an environment variable with a secret's name holds it. Time is linear in the text's length,
since errors may quote whole files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 6  # characters of an environment variable's value; texts contain shorter ones by chance

_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SHAPES = re.compile(
    r"(?<![\w-])(?:hf_[A-Za-z0-9]{20,}|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|npm_\w{30,}"
    r"|pypi-[\w-]{40,}|sk-[\w-]{20,}|[rs]k_(?:live|test)_\w{16,}|xox[abeprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}"
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}|dapi[0-9a-f]{32}|nvapi-[\w-]{20,}|r8_\w{30,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)
_HOOKS = re.compile(
    r"(hooks\.slack\.com/\w+/|discord(?:app)?\.com/api/webhooks/\d+/|api\.telegram\.org/bot)[^\s'\"<>]+", re.IGNORECASE
)
_HEADER = re.compile(
    r"(\bauthorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:(?:bearer|basic|token|digest|apikey)\s+)?)(?![\s*])"
    r"(?!(?:bearer|basic|token|digest|apikey)\s|(?:required|unknown|None|null)\b)[^\"'\\\r\n]+",
    re.IGNORECASE,
)
_SCHEMES = [
    re.compile(r"(\b[Bb]earer\s+)(?=\S*[\d._~+/=]|\S{20})[\w.~+/=-]{6,}"),
    re.compile(r"((?<![A-Za-z] )\bBearer\s+)(?!(?:tokens?|auth\w*|scheme|credentials?|header)\b)[\w.~+/=-]{4,}"),
    re.compile(r"(\b[Bb]asic\s+)(?=\S*=|(?=\S*\d)\S*[A-Z])[A-Za-z0-9+/]{6,}={0,2}"),
]

# A password may contain "/", "?" and "@" unescaped, and an address may follow another without a space.
_ADDRESS = re.compile(r"(?P<scheme>(?<![\w+.-])[A-Za-z][\w+.-]*:|(?<![\w/.~-]))//(?P<rest>(?:(?!://)\S)+)")
_WEB = ("http:", "https:", "s3:", "gs:", "")
_PORT = re.compile(r"\d{1,5}\Z")
_TOKEN_USER = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9]{16,}\Z|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

# NAME=value, NAME: value, "NAME": "value", ?NAME=value, --NAME value; a match begins once per word.
_NAMED = re.compile(
    r"(?:(?<=%3F)|(?<=%26)|(?<=\\u0026)|(?<![\w./-])(?P<flag>--)?)(?P<name>[A-Za-z][\w.-]*)"
    r"(?:(?P<quoted>\\?[\"']?\s*(?:=>|=|:)\s*)(?=\\?[\"'])|\s*(?P<sign>=>|=|:)\s*|%3D|(?P<space>\s+))"
)
_INSIDE = re.compile(r"(?P<quote>\\?[\"'])(?P<inside>(?:(?!(?P=quote)).)+)(?P=quote)")
_PLAIN = re.compile(r"(?:[^\s;'\"<>\\]|\\(?![\"'u]))+")
_STRONG = re.compile(
    r"(?:passw(?:or)?d|passphrase|connection[_.-]?string|sharedaccesssignature|amz-signature|goog-signature"
    r"|(?:api|access|account|secret|private|storage|shared|signing|encryption|auth|master|subscription)[_.-]?key"
    r"|(?:access|auth|api|refresh|security|session|bearer|private|personal|deploy|sas|oauth|csrf|secret)[_.-]?token"
    r"|(?:^|[_.-]|client|app|consumer|shared|webhook)secret|(?:^|[_.-])pwd)(?:[_.-]?\d+)?$",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?:^|[_.-])token(?:[_.-]?\d+)?$", re.IGNORECASE)
_NO_SECRET = re.compile(
    r"^(?:OLD)?PWD$|(?i:(?:pad|eos|bos|unk|sep|cls|mask|special|added|start|end|stop|image|video|text|per|max|min)_?token$)"
)
_ADDRESSED = re.compile(
    r"^(?:key|pass|auth|authorization)$|(?:credentials?|signature|accesskeyid)$|(?:^|[_-])sig$", re.I
)
_OURS = re.compile(r"(?:unknown key|required|None|null|true|false)\b|\*\*\*")  # words that our messages put after a key
_LONG = re.compile(r"[\w+/=%-]{16,}\Z")
_MIXED = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])\S{6,}")

_VARIABLE = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CONNECTION_STRING|_PWD"
    r"|(?:API|ACCESS|SECRET|ACCOUNT|PRIVATE|STORAGE|SIGNING|ENCRYPTION|AUTH|MASTER)_?KEY)$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"hf_|gh[oprsu]_|github_pat_|glpat-|sk-|xox|npm_|pypi-|nvapi-")
_WORD = re.compile(r"(?:[^\W\d_]{1,19}[_.-]?)+")
_GENERATED = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{8,}|[^\w.-]")
_WEB_PATH = re.compile(r"https?://\S+")


def mask(text: str, whole: bool = False) -> str:
    """``text`` without its secrets; masking it a second time changes nothing.

    An environment variable's value is hidden where it stands alone. It stays inside a longer word or a path, which
    contain it by chance, and it stays where it consists of letters alone. ``whole``: the text is one value of a
    configuration, such as a run's name; there only values that nobody would choose as a name are hidden.
    """
    text = _PEM.sub(HIDDEN, text)
    text = _ADDRESS.sub(_address, text)
    text = _HOOKS.sub(rf"\1{HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = "".join(_named(text))
    for pattern in _SCHEMES:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return _environment(_SHAPES.sub(HIDDEN, text), whole)


def mask_tree(tree: Any) -> Any:
    """A copy of ``tree``, of plain JSON types, with every text masked, and with the values of keys such as
    ``password``."""
    if isinstance(tree, dict):
        return {
            mask_tree(key): HIDDEN if value and isinstance(value, str) and _is_secret(str(key)) else mask_tree(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return type(tree)(mask_tree(value) for value in tree)
    return mask(tree, whole=True) if isinstance(tree, str) else tree


def _is_secret(name: str) -> bool:
    return bool((_STRONG.search(name) or _TOKEN.search(name)) and not _NO_SECRET.search(name))


def _address(match: re.Match[str]) -> str:
    """``//user:password@host`` without the password, and without a user that is a token."""
    scheme, rest = match["scheme"], match["rest"]
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, colon, word = head.partition(":")
    if "@" in user:  # no password
        user = user.rpartition("@")[0]
        return f"{scheme}//{_user(user)}{rest[len(user) :]}"
    inside = rest.partition("?")[0] if "@" in head else rest
    end = inside.rfind("@")
    is_host = head.startswith("[") or ("@" not in head and scheme.lower() in _WEB and (not word or _PORT.match(word)))
    if not colon or end < 0 or is_host:
        return match[0]
    shown = f"{_user(user)}:{HIDDEN}" if end > len(user) + 1 else f"{HIDDEN}:"
    return f"{scheme}//{shown}{rest[end:]}"


def _user(user: str) -> str:
    return HIDDEN if _SHAPES.match(user) or _TOKEN_USER.match(user) else user


def _named(text: str) -> Iterator[str]:
    """The pieces of ``text``, with the values of secret names hidden."""
    done = 0
    for match in _NAMED.finditer(text):
        if match.start() >= done and (value := _value(text, match)):
            start, end = value
            yield text[done:start] + HIDDEN
            done = end
    yield text[done:]


def _value(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """Start and end of the secret value of a name; None if it has none."""
    name, start = match["name"][-80:], match.end()
    before = text[max(0, match.start() - 6) : match.start()]
    in_address = before.endswith(("?", "&", ";", "#", "%3F", "%26", "&amp;", "\\u0026"))
    is_signature = name.lower() == "signature" and not in_address
    if not (is_signature or _is_secret(name) or (in_address and _ADDRESSED.search(name))):
        return None
    if match["quoted"]:
        inside = _INSIDE.match(text, start)
        return inside.span("inside") if inside and not is_signature else None
    plain = _PLAIN.match(text, start)
    if (
        plain is None
        or _OURS.match(text, start)
        or (match["space"] and (not match["flag"] or plain[0].startswith("-")))
    ):
        return None
    value = plain[0].partition("%26" if match[0].endswith("%3D") else "&" if in_address else "\0")[0]
    value = value.rstrip(":,.)]}")
    starts_a_sentence = match["sign"] == ":" and name.lower() in ("secret", "token")
    is_count = value.isdigit() and len(value) < 6 and not _STRONG.search(name)
    if is_count or (starts_a_sentence and not _MIXED.match(value)) or (is_signature and not _LONG.match(value)):
        return None
    return (start, start + len(value)) if value else None


def _environment(text: str, whole: bool) -> str:
    values = {value for name, value in os.environ.items() if _names_a_secret(name) and len(value) >= SHORTEST}
    values = {value for value in values if value in text or quote(value, safe="") in text}
    if not values:
        return text
    tokens = frozenset(value for value in values if _PREFIX.match(value) or _GENERATED.search(value))
    if tokens:  # in an address of the web a token may be a part of the path
        text = _WEB_PATH.sub(lambda address: _pattern(tokens, "").sub(HIDDEN, address[0]), text)
    alone = tokens if whole else tokens | {value for value in values if not _WORD.fullmatch(value)}
    return _pattern(alone, "/").sub(HIDDEN, text) if alone else text


@lru_cache(maxsize=4096)
def _names_a_secret(variable: str) -> bool:
    return bool(_VARIABLE.search(variable))


@lru_cache(maxsize=64)
def _pattern(values: Iterable[str], within: str) -> re.Pattern[str]:
    """Pattern of ``values`` that stand alone: no letter, digit or sign of a longer word, nor of ``within``, beside
    them."""
    both = {spelt for value in values for spelt in (value, quote(value, safe=""))}
    longest_first = "|".join(re.escape(value) for value in sorted(both, key=len, reverse=True))
    before, after = rf"(?:(?<![\w.@~\\{within}-])|(?<=\\[nrt]))", rf"(?![\w~{within}-]|\.\w|\\(?![nrt\"']))"
    return re.compile(f"{before}(?:{longest_first}){after}")
