"""Decoders, the hub's token, and MLflow's server."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from importlib import import_module
from types import ModuleType
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ray_distill.machine.line import Line, Needs, absent
from ray_distill.masking import mask

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "aac", "opus")
ENCODERS = ("libx264", "aac")
"""Encoders of the mp4 files that runs write."""
WHEELS = (
    "pip install --force-reinstall --only-binary=av av: the wheels have them, builds against a system's FFmpeg may not"
)
TIMEOUT_S = 5.0


def decoders() -> Iterator[Line]:
    """Lines for PyAV with its codecs, and for decord, without which PyAV reads everything."""
    try:
        av = import_module("av")
    except ImportError as error:
        yield Line("missing", "PyAV", f"cannot be imported: {error}", "pip install av")
    else:
        lacks = [name for name in DECODERS if not has(av, name, "r")]
        lacks += [f"{name} to write" for name in ENCODERS if not has(av, name, "w")]
        if lacks:
            yield Line("missing", "PyAV", f"{av.__version__} without {', '.join(lacks)}", WHEELS)
        else:
            yield Line("ok", "PyAV", f"{av.__version__}; reads {', '.join(DECODERS)}; writes {', '.join(ENCODERS)}")
    try:
        decord = import_module("decord")
    except (ImportError, OSError, RuntimeError) as error:  # its library fails to load in each of these ways
        text = f"cannot be imported ({type(error).__name__}); PyAV reads everything"
        yield Line("note", "decord", text, "pip install decord, or decord2 where decord has no wheel")
    else:
        yield Line("ok", "decord", f"{decord.__version__}; data.decoder=decord uses it where its frames are proven")


def has(av: ModuleType, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # an unknown codec
        return False
    return True


def token(needs: Needs) -> Line:
    """The line of the hub's token, whose value is never printed."""
    from huggingface_hub import get_token

    if get_token():
        return Line("ok", "hub token", "present")
    return absent(needs.token, "hub token", "none; public models need none", "hf auth login, or set HF_TOKEN")


def mlflow(needs: Needs) -> Line:
    """The line of MLflow's server, asked for its health once; a SQLite file needs none."""
    uri = needs.uri
    if not uri:
        return Line("note", "MLflow", "no server is set", "set track.uri=http://HOST:5000 to share runs")
    if uri.startswith("sqlite:"):
        return Line("ok", "MLflow", f"{uri}, which needs no server")
    if not uri.startswith(("http://", "https://")):
        return Line("note", "MLflow", f"{mask(uri)} was not asked: only http addresses are")
    start = "start it (mlflow server), mend track.uri, or set track.uri='' to track nothing"
    try:
        with urlopen(health(uri), timeout=TIMEOUT_S):
            return Line("ok", "MLflow", f"{mask(uri)} answers")
    except HTTPError as error:
        if error.code in (401, 403):
            rights = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return Line("missing", "MLflow", f"{mask(uri)} refuses: {error.code} {error.reason}", rights)
        return Line("missing", "MLflow", f"{mask(uri)} answers {error.code} {error.reason}", start)
    except (OSError, HTTPException, ValueError) as error:  # no host, nobody listens, no answer in time, no HTTP
        return Line("missing", "MLflow", f"{mask(uri)} does not answer: {mask(str(error))}", start)


def health(uri: str) -> str:
    """Address of a server's health, without user and password: it asks for neither."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
