"""Places: files inside and outside a folder, and reads that fail for a while."""

import io
import json
import os

import fsspec
import pytest

from ray_distill.data.read import remote
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.remote import SLICE, is_inside, local, read
from tests.unit.data.test_listing import entries, lines, source, tar


@pytest.fixture
def tree(tmp_path):
    """A folder ``in``, beside it a video and a shard, and links from inside to both."""
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("out.mp4", "in/a.mp4", "in/sub/b.mp4"):
        (tmp_path / name).write_bytes(b"v" * 600)
    for name in ("out.tar", "in/s.tar"):
        tar(tmp_path / name, {"0.mp4": b"v"})
    (tmp_path / "in/link.mp4").symlink_to(tmp_path / "out.mp4")
    (tmp_path / "in/link.tar").symlink_to(tmp_path / "out.tar")
    (tmp_path / "in/folder").symlink_to(tmp_path)
    return tmp_path


OUTSIDE = [
    "../out.mp4",
    "link.mp4",
    "folder/out.mp4",
    "{root}/out.mp4",
    "file://{root}/out.mp4",
    "file://{root}/in/../out.mp4",
    "file://{root}/in/link.mp4",
    "local://{root}/in/folder/out.mp4",
    "../out.tar::512::1::0.mp4",
    "link.tar::512::1::0.mp4",
    "folder/out.tar::512::1::0.mp4",
    "../out.tar::512::1::/../../../in/a.mp4",  # the shard is outside, wherever the member's name leads
    "{root}/out.tar::512::1::{root}/in/a.mp4",
    "https://example.invalid/a.mp4",
    "ghost://a.mp4",
]
INSIDE = ["a.mp4", "sub/b.mp4", "sub/../a.mp4", "{root}/in/a.mp4", "file://{root}/in/a.mp4", "s.tar::512::1::0.mp4"]
INSIDE += ["s.tar::512::1::../../x.mp4", "file://{root}/in/s.tar::512::1::0.mp4"]


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_what_leads_outside_of_a_manifests_folder_is_refused(tree, scheme):
    names = [name.format(root=tree) for name in OUTSIDE + INSIDE]
    (tree / "in/m.jsonl").write_text(lines(*({"video": name, "caption": "x"} for name in names)))
    found = entries(source({"manifest": f"{scheme}{tree}/in/m.jsonl"}))
    refused = [entry.video for entry in found if "outside the manifest's folder" in entry.error]
    assert refused == names[: len(OUTSIDE)] and len(found) == len(names)
    allowed = entries(source({"manifest": f"{scheme}{tree}/in/m.jsonl"}, allow_outside=True))
    assert not any(entry.error for entry in allowed)


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ("s3://b/in/a.mp4", True),
        ("s3://b/in/../in/a.mp4", True),
        ("s3://b/in/../a.mp4", False),
        ("s3://b/inner/a.mp4", False),
        ("s3://c/in/a.mp4", False),
        ("gs://b/in/a.mp4", False),
        ("s3://b/in/s.tar::0::1::0.mp4", True),
        ("s3://b/in/../s.tar::0::1::/in/0.mp4", False),
        ("s3://b/in/%2e%2e/a.mp4", False),
        ("/b/in/a.mp4", False),
    ],
)
def test_what_is_inside_of_a_bucket(place, inside, monkeypatch):
    monkeypatch.setattr(remote, "_file_system", lambda root: None)  # nothing is asked of a store
    assert is_inside("s3://b/in", place) is inside


class Flaky:
    """``open`` of fsspec's memory file system, which fails a number of times."""

    def __init__(self, monkeypatch, failures, error=None):
        self.failures, self.waits, self.calls, self.error = failures, [], 0, error
        there = type(fsspec.filesystem("memory"))
        opened = there._open
        monkeypatch.setattr(there, "_open", lambda *given, **how: self.fail() or opened(*given, **how))
        monkeypatch.setattr(remote.time, "sleep", self.waits.append)

    def fail(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error or OSError("reset by peer")


@pytest.fixture
def bucket():
    there = fsspec.filesystem("memory")
    there.pipe({"/clips/a.mp4": b"one" * 1000, "/clips/a.txt": b"a cat", "/clips/p.txt": b"a kite\n"})
    yield "memory://clips"
    there.rm("/clips", recursive=True)


class OfItsClient(Exception):
    """An error without a common class, as aiohttp's and botocore's."""


@pytest.mark.parametrize("error", [OSError("reset by peer"), TimeoutError("slow"), OfItsClient("payload")])
def test_a_remote_read_that_fails_is_tried_again(bucket, monkeypatch, error):
    flaky = Flaky(monkeypatch, 2, error)
    with local(f"{bucket}/a.mp4") as path, open(path, "rb") as file:
        assert file.read() == b"one" * 1000
    assert flaky.calls == 3 and flaky.waits == list(remote.WAITS_S)
    for part, caption in (({"videos": bucket}, "a cat"), ({"prompts": f"{bucket}/p.txt"}, "a kite")):
        flaky.calls = 0
        assert [(e.caption, e.error) for e in entries(source(part))] == [(caption, "")] and flaky.calls == 3


def test_one_that_fails_for_good_costs_its_clip(bucket, monkeypatch):
    flaky = Flaky(monkeypatch, 3, OfItsClient("payload"))
    with pytest.raises(BadClip, match=r"a.mp4: cannot be read \(OfItsClient: payload\)"), local(f"{bucket}/a.mp4"):
        pass
    assert flaky.calls == 3
    flaky.calls = 0
    (entry,) = entries(source({"videos": bucket}))
    assert "its caption a.txt cannot be read (OfItsClient: payload)" in entry.error


def test_what_is_not_there_is_not_waited_for(bucket, monkeypatch, tmp_path):
    flaky = Flaky(monkeypatch, 0)
    with pytest.raises(BadClip, match="cannot be read"), local(f"{bucket}/none.mp4"):
        pass
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.txt")
    assert flaky.waits == []


def test_half_a_remote_file_is_tried_again(bucket, monkeypatch):
    """A connection that ends early looks like the file's end."""
    sizes, opened = [1, 2000, 3000], remote.open_at

    class Early(io.BytesIO):
        def size(self):
            return 3000

    def early(place):
        with opened(place) as file:
            return Early(file.read(sizes.pop(0)))

    monkeypatch.setattr(remote, "open_at", early)
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    with local(f"{bucket}/a.mp4") as path:
        assert os.path.getsize(path) == 3000 and sizes == []
    sizes[:] = [1, 2, 3]
    with pytest.raises(BadClip, match="cut off: only 3 of its 3000 bytes were read"), local(f"{bucket}/a.mp4"):
        pass


def test_a_members_name_may_look_like_a_member(tmp_path):
    name = SLICE.join(["x.tar", "0", "9", "y.mp4"])
    path = tar(
        tmp_path / "s.tar", {name: b"seen", f"{name}.txt": b"", name.replace("mp4", "txt"): json.dumps("x").encode()}
    )
    good = next(entry for entry in entries(source({"shards": path, "caption": "x"})) if not entry.error)
    with local(good.path) as copy, open(copy, "rb") as file:
        assert file.read() == b"seen"


@pytest.mark.parametrize("slice_", [("9" * 20, "5"), (str(1 << 63), "5"), ("0", "9" * 20), ("9" * 5000, "5")])
def test_a_place_in_a_shard_that_no_file_is_large_enough_for(tmp_path, slice_):
    """A manifest may name members itself, and such a row costs its clip."""
    path = tar(tmp_path / "s.tar", {"a.mp4": b"0"})
    with pytest.raises(BadClip, match="cannot be read"), local(SLICE.join([str(path), *slice_, "a.mp4"])):
        pass
