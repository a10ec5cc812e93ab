"""The files that a SimpleTuner configuration names: the model, prompts, the web hook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_distill.config.simpletuner.outcome import File, Refused, is_hub_name

LIBRARY = Path(__file__).with_name("prompts.json")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is not valid JSON: {error}") from None


def model_folder(name: str, file: File) -> Path:
    """A local folder first, then the hub's cache on this machine; nothing is fetched."""
    for root in (Path.cwd(), file.path.parent):
        if (root / name).is_dir():
            return (root / name).absolute()
    if is_hub_name(name):
        from huggingface_hub import snapshot_download  # a tenth of a second, and most configurations name no hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError:
            raise Refused(
                f"no such folder here, and nothing of that name in the hub's cache. Fetch it: hf download {name}; "
                "or name a folder: model.path=FOLDER"
            ) from None
    raise Refused("no such folder; model.path=FOLDER names another")


def prompts(file: File) -> dict[str, str]:
    """What validations show: the library, where one is named, and ``validation_prompt``."""
    named = file.given.get("validation_prompt_library")
    library: Any = {}
    if named is True or named == LIBRARY.stem:
        library = read_json(LIBRARY)
    elif named not in (None, False, ""):
        library = read_json(file.locate(named))
    if not isinstance(library, dict) or not all(isinstance(prompt, str) for prompt in library.values()):
        raise Refused("expected a file of {name: prompt}")
    own = file.given.get("validation_prompt")
    return library | ({"validation": own} if own else {})
