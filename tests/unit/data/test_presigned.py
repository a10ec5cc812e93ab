"""Presigned addresses are read as they are, and are shown, stored and counted without their signatures."""

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from ray_distill.data.prepare.beside import COLUMNS, with_paths
from ray_distill.data.prepare.index import QUARANTINE
from ray_distill.data.prepare.listing import entries
from ray_distill.data.source import Dataset
from tests.unit.data import odd
from tests.unit.data.test_index import characters, make, source

__all__ = ["characters"]
SIGNED = [
    "memory://signed/a.mp4?X-Amz-Credential=ter2x-id&X-Amz-Signature={}",
    "memory://signed/b.mp4?sv=2022&sig={}%3D",
    "memory://signed/c.mp4?GoogleAccessId=a&Expires=17&Signature={}",
]


def write(folder, signature):
    """Write a manifest of files in a store that accepts this signature alone, and of one missing file."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    addresses = [address.format(signature) for address in SIGNED]
    for number, address in enumerate(addresses):
        clip = folder / f"{number}.mp4"
        if not clip.exists():
            odd.write(clip, size=(24, 32 + 8 * number))
        with store.open(address.removeprefix("memory:/"), "wb") as file:
            file.write(clip.read_bytes())
    addresses.append(f"memory://signed/gone.mp4?token={signature}")
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"video": a, "caption": f"clip {n}"}) + "\n" for n, a in enumerate(addresses)))
    return Dataset(manifest=path)


def kept(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stream", [False, True])
def test_no_file_of_a_cache_and_no_line_of_a_log_holds_a_signature(tmp_path, caplog, stream):
    given = source(tmp_path, write(tmp_path, "ter2x-0"), allow_outside=True, stream=stream)
    cache, _ = make(given)
    files = kept(given.cache_dir)
    assert len(files) > 5
    assert [name for name, content in files.items() if b"ter2x" in content] == []
    assert "ter2x" not in caplog.text + json.dumps(cache.card) and "gone.mp4?token=***" in caplog.text
    (line,) = (cache.folder / QUARANTINE).read_text().splitlines()
    assert json.loads(line)["file"] == "memory://signed/gone.mp4?token=***"
    names = sorted(cache.index["video"].to_pylist())
    assert names[1] == "memory://signed/b.mp4?sv=2022&sig=***" and len(set(names)) == 3


def test_a_streamed_row_finds_its_file_though_it_was_signed_anew(tmp_path):
    given = source(tmp_path, write(tmp_path, "ter2x-0"), allow_outside=True, stream=True)
    cache, _ = make(given)
    again = source(tmp_path, write(tmp_path, "ter2x-1"), allow_outside=True, stream=True)
    rows = with_paths(again, cache.index.select([name for name in COLUMNS if name in cache.index.column_names]))
    found = dict(zip(rows["video"].to_pylist(), rows["path"].to_pylist(), strict=True))
    assert found["memory://signed/b.mp4?sv=2022&sig=***"] == "memory://signed/b.mp4?sv=2022&sig=ter2x-1%3D"
    assert make(again)[0].folder == cache.folder


def test_paths_without_a_secret_are_kept_as_they_are(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    rows = pa.table({"dataset": [0], "video": ["a.mp4"], "path": ["/a/a.mp4"]})
    assert with_paths(source(tmp_path, Dataset(manifest=tmp_path / "none.jsonl")), rows) is rows


def test_two_addresses_that_differ_in_their_secret_alone_have_two_names(tmp_path):
    path = tmp_path / "manifest.jsonl"
    videos = ["https://h/get?token=a", "https://h/get?token=b", "https://h/get?token=a", "clips/sig=1.mp4"]
    path.write_text("".join(json.dumps({"video": video, "caption": "x"}) + "\n" for video in videos))
    found = list(entries(source(tmp_path, Dataset(manifest=path), allow_outside=True)))
    names = ["https://h/get?token=***", "https://h/get?token=*** (2)", "https://h/get?token=***", "clips/sig=1.mp4"]
    assert [entry.video for entry in found] == names
    assert [entry.path for entry in found[:3]] == videos[:3]


def test_the_name_of_a_dataset_holds_no_signature():
    assert Dataset(shards="https://h/train.tar?sig=ab/cd").name == "train"
    assert Dataset(manifest="https://h/clips/m.jsonl?Signature=ab/cd").name == "clips"
    assert Dataset(videos=Path("/a/what?/clips")).name == "clips"
