"""The first rows of a source show, before a cluster starts, that none of it can be used."""

import json
import os

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from ray_distill.data.prepare import first_rows
from ray_distill.data.prepare.first_rows import check_rows
from ray_distill.train.driver.checks.clips import check_data
from tests.unit.data.test_listing import lines, source, tar, write
from tests.unit.toys import run_config

GOOD = {"video": "a.mp4", "caption": "a cat"}


def manifest(content, name="m.jsonl"):
    def make(folder):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return {"manifest": path}

    return make


def prompts(content, name="p.txt"):
    return lambda folder: {"prompts": manifest(content, name)(folder)["manifest"]}


def folder(*names):
    def make(root):
        for name in names:
            write(root / "clips" / name, "x")
        (root / "clips").mkdir(exist_ok=True)
        return {"videos": root / "clips"}

    return make


def shard(content=None, **members):
    def make(root):
        path = root / "s.tar"
        if content is not None:
            path.write_bytes(content)
        else:
            tar(path, {name.replace("_", "."): text for name, text in members.items()})
        return {"shards": path}

    return make


def table(columns, **values):
    def make(root):
        parquet.write_table(pa.table(columns, **values), root / "m.parquet")
        return {"manifest": root / "m.parquet"}

    return make


UNUSABLE = {
    "an empty manifest": (manifest(""), "nothing in it. It holds JSON lines"),
    "blank lines": (manifest("\n \n\n"), "nothing in it"),
    "a mark and no more": (manifest(b"\xef\xbb\xbf"), "nothing in it"),
    "a CSV of a header": (manifest("video,caption\n", "m.csv"), "nothing in it"),
    "an empty CSV": (manifest("", "m.csv"), "nothing in it"),
    "an empty JSON list": (manifest("[]", "m.json"), "nothing in it"),
    "a parquet file of no rows": (
        table({"video": pa.array([], pa.string()), "caption": pa.array([], pa.string())}),
        "nothing",
    ),
    "other columns": (manifest(lines({"file": "a.mp4", "text": "x"})), "each line needs 'video' and 'caption'; it has"),
    "other columns of a CSV": (manifest("file,text\na.mp4,x\n", "m.csv"), "each line needs 'video'"),
    "other columns of parquet": (table({"file": ["a.mp4"]}), "each line needs 'video'"),
    "text": (manifest("a cat\na dog\n"), "no row of it can be read; m.jsonl, line 1: not valid JSON"),
    "half a JSON list": (manifest('[{"video": "a.mp4",', "m.json"), "not valid JSON"),
    "lists for objects": (manifest('["a.mp4", "x"]\n'), "one JSON object a line"),
    "a page of HTML": (manifest("<html>\n<body>404</body>\n</html>\n"), "no row of it can be read"),
    "bytes": (manifest(bytes(range(128, 256))), "not UTF-8"),
    "bytes called parquet": (manifest(b"PAR1 no table PAR1", "m.parquet"), "not readable"),
    "an ending that no manifest has": (manifest("a", "m.xlsx"), "a manifest is .jsonl"),
    "captions that are blank": (manifest(lines(GOOD | {"caption": " "})), "none of its 1 clips can be used"),
    "videos outside": (manifest(lines(GOOD | {"video": "/elsewhere/a.mp4"})), "data.allow_outside=true"),
    "a folder of nothing": (folder(), "nothing in it. It holds videos"),
    "a folder of pictures": (folder("a.jpg", "a.txt"), "nothing in it"),
    "videos without captions": (folder("a.mp4", "b.mp4"), "none of its 2 clips can be used"),
    "an empty shard": (shard(b""), "s.tar: cut off or damaged"),
    "a shard of zeros": (shard(bytes(10240)), "s.tar: no video in it"),
    "a shard without videos": (shard(a_txt=b"a cat"), "no video beside it"),
    "a shard without captions": (shard(a_mp4=b"x"), "no caption in its shard"),
    "a packed shard": (shard(b"\x1f\x8b" + bytes(600)), "decompress it"),
    "no shard": (shard(b"<html>404</html>" * 100), "cut off or damaged"),
    "a folder without shards": (
        lambda root: {"shards": folder("a.mp4")(root)["videos"]},
        "nothing in it. It is a tar file",
    ),
    "no prompts": (prompts(""), "nothing in it. It holds a prompt a line"),
    "blank prompts": (prompts("\n\t\n"), "nothing in it"),
    "prompts of another column": (prompts(lines({"text": "x"}), "p.jsonl"), "each line needs 'caption'"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_source_of_which_nothing_can_be_used_is_refused(tmp_path, kind):
    make, message = UNUSABLE[kind]
    with pytest.raises(ValueError, match="^data") as refused:
        check_rows(source(make(tmp_path)))
    assert message in str(refused.value)


def test_check_names_the_key_and_the_place(tmp_path):
    empty = manifest("")(tmp_path)["manifest"]
    with pytest.raises(ValueError, match=f"^data.manifest = {empty}: nothing in it"):
        check_data(run_config(tmp_path, data__manifest=str(empty)))


def test_an_empty_dataset_is_named_by_its_number(tmp_path):
    good = manifest(lines(GOOD), "good.jsonl")(tmp_path)
    with pytest.raises(ValueError, match=r"^data\.datasets\.1\.videos = .*: nothing in it"):
        check_rows(source(good, folder()(tmp_path)))


def test_one_good_row_is_enough(tmp_path):
    """The preparation leaves out and names the bad rows beside it, and also a dataset of only bad rows."""
    bad = "no JSON\n" + lines({"video": "b.mp4", "caption": ""})
    check_rows(source(manifest(bad + lines(GOOD))(tmp_path)))
    check_rows(source(folder("a.mp4", "b.mp4", "b.txt")(tmp_path)))
    check_rows(source(manifest(lines(GOOD))(tmp_path), folder("c.mp4")(tmp_path / "other")))


def test_no_video_is_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")  # opening it would wait for ever
    write(tmp_path / "a.txt", "a cat")
    check_rows(source({"videos": tmp_path}))


def test_rows_behind_the_first_thousands_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(first_rows, "ROWS", 3)
    blank = lines(GOOD | {"caption": ""})
    check_rows(source(manifest(blank * 4 + lines(GOOD))(tmp_path)))  # row 5 may be good: the preparation reads it
    with pytest.raises(ValueError, match="none of its 3 clips"):
        check_rows(source(manifest(blank * 3)(tmp_path)))
    with pytest.raises(ValueError, match="each line needs 'video'"):
        check_rows(source(manifest(lines({"file": "a.mp4"}) * 9)(tmp_path)))
    check_rows(source(folder("a.mp4", "b.mp4", "c.mp4", "d.mp4")(tmp_path)))
    check_rows(source(shard(a_mp4=b"x", b_mp4=b"x", c_mp4=b"x", d_mp4=b"x", d_txt=b"a cat")(tmp_path)))


def test_nothing_is_refused_of_what_time_leaves_unread(tmp_path):
    for make in (manifest(""), folder("a.mp4"), shard(a_mp4=b"x"), prompts("x\n")):
        check_rows(source(make(tmp_path)), seconds=-1)


def test_what_can_only_be_read_whole_is_read_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(first_rows, "WHOLE", 20)
    check_rows(source(manifest(json.dumps([{"file": "a.mp4"}] * 9), "m.json")(tmp_path)))
    there = fsspec.filesystem("memory")
    there.pipe("/first_rows/m.jsonl", lines({"file": "a.mp4"}).encode() * 9)
    check_rows(source({"manifest": "memory://first_rows/m.jsonl"}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="each line needs 'video'"):
        check_rows(source({"manifest": "memory://first_rows/m.jsonl"}))
