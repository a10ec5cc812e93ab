"""Encode a run's clips while it trains, in the order in which training needs them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_distill.data.encoders import Encoders
from ray_distill.data.prepare.index import QUARANTINE
from ray_distill.data.prepare.listing import entries
from ray_distill.data.prepare.pipeline import encode_beside
from ray_distill.data.prepare.progress import Say
from ray_distill.data.prepare.silence import SILENT, silent_clips
from ray_distill.data.prepare.silence import lines as silent_lines
from ray_distill.data.prepare.stages import Write
from ray_distill.data.source import Source
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.growing import Growing
from ray_distill.data.store.parquet import Place, Store, place_columns
from ray_distill.data.store.tables import among, distinct, unequal, without
from ray_distill.masking import HIDDEN, mask
from ray_distill.models.spec import of_clips

COLUMNS = ["id", "dataset", "video", "path", "number", "height", "width", "header", "content"]


class Filling(threading.Thread):
    """A thread that encodes those rows ``numbers`` of ``cache`` that its store lacks, on ``cpus`` CPUs of the
    cluster."""

    def __init__(
        self, source: Source, models: Encoders, cache: Cache, numbers: Sequence[int], cpus: float, say: Say
    ) -> None:
        super().__init__(daemon=True, name="filling")
        self.source, self.models, self.cache, self.cpus, self.say = source, models, cache, cpus, say
        there = Growing(cache.latents_folder)
        there.look()
        images = Store(cache.images_folder) if cache.images_folder else None
        self.write = Write(there.store, True, images, tuple(of_clips(models.fields)))
        rows = unequal(cache.index.take(pa.array(numbers, pa.int64())), video="")
        whole = set(there.places if images is None else images.places()["id"].to_pylist()) & there.places.keys()
        finished = pa.array([*whole, *there.errors], pa.string())
        self.rows = with_paths(source, without(distinct(rows.select(COLUMNS), "id"), "id", finished))
        self.stopped = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            if len(self.rows):
                self._encode()
        except BaseException as error:  # ``check`` raises it in the thread that trains
            self.failed = error

    def _encode(self) -> None:
        errors = encode_beside(
            self.source, self.models, self.rows, self.write, self.cpus, self.say, self.stopped.is_set
        )
        bad = among(self.rows, "id", pa.array(errors, pa.string())).to_pylist()
        reasons = {row["id"]: errors[row["id"]].removeprefix(f"{row['path']}: ") for row in bad}
        lines = [{"file": row["video"], "reason": mask(reasons[row["id"]])} for row in bad]
        with (self.cache.folder / QUARANTINE).open("a") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if self.models.sound:
            self._name_silent()

    def _name_silent(self) -> None:
        """Add the silent clips among those that were just encoded to the list."""
        places = place_columns(self.rows["id"], self.write.store.places())
        rows = unequal(self.rows.append_column("file", places["file"]), file="")
        encoded = [Place(**place) for place in unequal(places, file="").to_pylist()]
        silent = silent_clips(self.source, self.write.store, rows.select(["dataset", "video", "number"]), encoded)
        with (self.cache.folder / SILENT).open("a") as file:
            file.write(silent_lines(silent))

    def check(self) -> None:
        """Raise the error that ended the thread early, since training would wait for its rows for ever."""
        if self.failed is not None:
            raise RuntimeError("data.stream = true: encoding beside the training has failed") from self.failed

    def stop(self) -> None:
        """End the thread once it has written its current file."""
        self.stopped.set()
        self.join(timeout=120)


def with_paths(source: Source, rows: pa.Table) -> pa.Table:
    """``rows`` of an index with the source's current addresses, which may be newly signed, in place of the masked
    ones."""
    if not pc.any(pc.match_substring(rows["path"], HIDDEN)).as_py():
        return rows
    paths = {(entry.dataset, entry.video): entry.path for entry in entries(source)}
    keys = zip(rows["dataset"].to_pylist(), rows["video"].to_pylist(), rows["path"].to_pylist(), strict=True)
    addresses = pa.array((paths.get((dataset, video), path) for dataset, video, path in keys), pa.string())
    return rows.set_column(rows.column_names.index("path"), "path", addresses)
