"""Upload a student to the hub, at the end and on request at each checkpoint; an outage costs only a warning."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray_distill.config import ConfigError, RunConfig
from ray_distill.config.sections import Publish
from ray_distill.models.spec import Latent
from ray_distill.secrets import mask

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"


class Hub:
    """The repository of a run with a ``publish`` section; without this section every method does nothing."""

    def __init__(self, config: RunConfig, api: Any = None) -> None:
        """Create the repository unless it exists, so that a refusal comes before the training.

        ConfigError where the hub refuses; where the hub cannot be reached, each upload tries again. ``api`` is
        huggingface_hub's HfApi.
        """
        self.config = config
        self.repository = ""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hub")  # starts no thread until used
        if config.publish is None:
            return
        from huggingface_hub import HfApi  # a tenth of a second, and most runs publish nothing

        self._api = api or HfApi()
        try:
            self.repository = self._create_repository(config.publish)
        except Exception as error:  # no refusal: the run need not wait for the hub
            if not _is_refusal(error):
                log.warning("the hub cannot be reached (%s); it is tried again at each upload", type(error).__name__)
                return
            raise ConfigError(
                f"publish.hub_model_id = {config.publish.hub_model_id}: the hub refuses it "
                f"({type(error).__name__}: {mask(str(error))}). Check the name and the token's rights, or use --no-push"
            ) from None

    def _create_repository(self, publish: Publish) -> str:
        repository = self._api.create_repo(publish.hub_model_id, private=publish.private, exist_ok=True)
        return str(repository.repo_id)

    def checkpoint(self, folder: Path, step: int, latent_shape: Latent) -> None:
        """Export and upload a checkpoint's student in a thread, where ``per_checkpoint`` asks for it."""
        publish = self.config.publish
        if publish is not None and publish.per_checkpoint and step % self.config.train.checkpoint_every == 0:
            self._pool.submit(self._checkpoint, folder, latent_shape)

    def _checkpoint(self, folder: Path, latent_shape: Latent) -> None:
        from ray_distill.export.student import export  # diffusers takes seconds, and a run begins without it

        out = self.config.run_dir / f".publish-{folder.name}"
        try:
            self._upload(export(self.config, folder, latent_shape, folder=out), f"{CHECKPOINTS}/{folder.name}")
        except Exception as error:  # the checkpoint was pruned, the disk is full, ...: the run goes on
            log.warning("%s was not published (%s: %s)", folder.name, type(error).__name__, mask(str(error)))
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def finish(self, folder: Path) -> str | None:
        """Wait for the current upload, then upload an export. Returns the repository's name, or None where nothing is
        published or the hub failed."""
        if self.config.publish is None:
            return None
        self._pool.shutdown(wait=True)
        try:
            return self._upload(folder, None)
        except Exception as error:  # whatever the hub raises, the student exists and can be uploaded again
            again = f"hf upload {self.repository or self.config.publish.hub_model_id} {folder}"
            why = f"{type(error).__name__}: {mask(str(error))}"
            log.warning("the student was not published (%s). Again: %s", why, again)
            return None

    def _upload(self, folder: Path, path: str | None) -> str:
        assert self.config.publish is not None
        self.repository = self.repository or self._create_repository(self.config.publish)
        self._api.upload_folder(
            repo_id=self.repository,
            folder_path=folder,
            path_in_repo=path,
            commit_message=f"{self.config.name}: {path or 'the student'}",
        )
        return self.repository

    def close(self) -> None:
        """Drop uploads that have not begun; the current one continues to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _is_refusal(error: Exception) -> bool:
    """True where the hub refused this name or token; False where it cannot be reached, which stops no run."""
    response = getattr(error, "response", None)
    return response.status_code < 500 if response is not None else isinstance(error, ValueError | PermissionError)
