"""A source in an object store, against a local S3 server (moto); left out where that is not installed."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from ray_distill.data.prepare.listing import check, entries
from ray_distill.data.prepare.stages import Decode, Look
from ray_distill.data.read.remote import _file_system, version
from ray_distill.data.source import Source
from tests.unit.data import odd

ROWS = [{"video": "a b 'ü'.mp4", "caption": "by manifest"}, {"video": "../b.mp4", "caption": "x"}]
server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """``s3://clips`` with a file and its caption, a manifest of it, text named .mp4, and a shard of the file."""
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    _file_system.cache_clear()
    there = fs.S3FileSystem(allow_bucket_creation=True, endpoint_override=f"http://{host}:{port}")
    there.create_dir("clips")
    content = odd.write(tmp_path / "a.mp4").read_bytes()
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name, data in {"1.mp4": content, "1.txt": b"from a shard"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    files = {
        "in/a b 'ü'.mp4": content,
        "in/a b 'ü'.txt": b"a cat",
        "in/bad.mp4": b"no video",
        "in/bad.txt": b"bad",
        "in/m.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
        "shards/0.tar": shard.getvalue(),
    }
    for name, data in files.items():
        with there.open_output_stream(f"clips/{name}") as file:
            file.write(data)
    yield tmp_path
    running.stop()
    _file_system.cache_clear()


def test_clips_of_a_bucket_are_those_of_a_folder(bucket: Path) -> None:
    datasets = [{"videos": "s3://clips/in"}, {"manifest": "s3://clips/in/m.jsonl"}, {"shards": "s3://clips/shards"}]
    source = Source(datasets=datasets, frames=3, height=24, width=32, fps=8)
    found = list(entries(source))
    assert [(e.caption, e.error != "") for e in found] == [
        ("a cat", False),
        ("bad", False),
        ("by manifest", False),
        ("x", True),
        ("from a shard", False),
    ]
    assert all(version(entry.path) for entry in found if not entry.error)
    looked = [row for entry in found for row in Look(source, (8, 8))(asdict(entry))]
    assert [bool(row["error"]) for row in looked] == [False, True, False, True, False]
    assert looked[1]["error"].startswith("s3://clips/in/bad.mp4: cannot be decoded")
    assert len({row["id"] for row in looked if not row["error"]}) == 1  # the content is the same, wherever it stands
    local = Look(source, (8, 8))(asdict(found[0]) | {"path": str(bucket / "a.mp4")})[0]
    assert local["id"] == looked[0]["id"]
    wanted = Decode(source).clip(local)[0]
    for row in (looked[0], looked[2], looked[4]):
        assert np.array_equal(Decode(source).clip(row)[0], wanted) and wanted.any()
    with pytest.raises(ValueError, match="s3://clips/none: no such folder"):
        check(Source(datasets=[{"videos": "s3://clips/none"}], frames=3, height=24, width=32))
