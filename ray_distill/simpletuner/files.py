"""Find the files that a SimpleTuner configuration names: model, prompts, web hook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_distill.simpletuner.document import read_json
from ray_distill.simpletuner.outcome import File
from ray_distill.simpletuner.rules import is_hub_name
from ray_distill.simpletuner.values import TRUE, Refused, off, text

LIBRARIES = ("validation_prompt_library", "user_prompt_library")
LIBRARY = Path(__file__).with_name("prompts.json")


def model_folder(name: str, file: File, revision: str | None = None) -> Path:
    """The folder of a model: a local one, else that in this machine's hub cache; nothing is downloaded."""
    for root in (Path.cwd(), file.path.parent):
        if (root / name).is_dir():
            return (root / name).absolute()
    if is_hub_name(name):
        from huggingface_hub import snapshot_download  # takes a tenth of a second, and few configurations need the hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            which = f" --revision {revision}" if revision else ""
            raise Refused(
                "no such folder here, and no such model in the hub's cache. Download it: "
                f"hf download {name}{which}; or name a folder: model.path=FOLDER"
            ) from None
    raise Refused("no such folder; model.path=FOLDER names another")


def prompts(file: File) -> tuple[dict[str, str], list[str]]:
    """(validation prompts by name, from the named libraries and ``validation_prompt``; keys beside a prompt that have
    no effect)."""
    texts: dict[str, str] = {}
    more: set[str] = set()
    for key in LIBRARIES:
        library = file.read(key, lambda named: _library(named, file), {})
        for name, entry in library.items():
            prompt = entry.get("prompt") if isinstance(entry, dict) else entry
            if not isinstance(prompt, str):
                raise Refused(f"{key}: {name!r} has no text; expected a file of {{name: prompt}}")
            texts[name] = prompt
            more |= entry.keys() - {"prompt"} if isinstance(entry, dict) else set()
    own = file.read("validation_prompt", text, "")
    return texts | ({"validation": own} if own else {}), sorted(more)


def _library(named: Any, file: File) -> dict[str, Any]:
    word = str(named).strip().lower()
    if off(named):
        return {}
    library = read_json(LIBRARY if word in (*TRUE, LIBRARY.stem) else file.locate(named))
    if not isinstance(library, dict):
        raise Refused("expected a file of {name: prompt}")
    return library
