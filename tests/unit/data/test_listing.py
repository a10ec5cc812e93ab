import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from ray_distill.data.prepare import listing
from ray_distill.data.prepare.listing import Entry, check
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.remote import local, version
from ray_distill.data.source import Source


def source(*datasets, **given):
    return Source(datasets=list(datasets), frames=9, height=24, width=24, **given)


def entries(source):
    return list(listing.entries(source))


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"video": "a.mp4", "caption": "a cat"}, {"video": "sub/b c.mp4", "caption": 'two "quoted"\nlines, über'}]


def test_what_is_not_utf_8_is_named_and_left_out(tmp_path):
    """It does not cost the listing of the other files."""
    os.close(os.open(os.fsencode(tmp_path) + b"/a\xff.mp4", os.O_CREAT))
    write(tmp_path / "b.mp4")
    broken, good = listing.listing(source({"videos": tmp_path, "captions": "filename"})).to_pylist()
    assert broken["error"] == "a\\udcff.mp4: its name or caption is not UTF-8; rename it" and not good["error"]
    path = write(tmp_path / "p.jsonl", '{"caption": "half \\ud800"}\n{"caption": "über"}\n')
    half, whole = listing.listing(source({"prompts": path})).to_pylist()
    assert "not UTF-8" in half["error"] and (whole["caption"], whole["error"]) == ("über", "")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_manifests_of_all_kinds_name_the_same(tmp_path, kind):
    path = tmp_path / f"clips.{kind}"
    if kind == "jsonl":
        write(path, lines(*ROWS) + "\n")
    elif kind == "csv":
        write(path, 'caption,video,score\na cat,a.mp4,3\n"two ""quoted""\nlines, über",sub/b c.mp4,4\n')
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    assert entries(source({"manifest": path})) == [
        Entry(0, row["video"], str(tmp_path / row["video"]), row["caption"]) for row in ROWS
    ]


def test_the_short_form_is_one_dataset(tmp_path):
    path = write(tmp_path / "m.jsonl", lines(*ROWS))
    short = Source(manifest=path, frames=9, height=24, width=24)
    assert entries(short) == entries(source({"manifest": path})) and short.title == tmp_path.name


def test_other_columns_and_one_caption_for_all(tmp_path):
    path = write(tmp_path / "m.csv", "file,text\nx.mp4,1\n")
    assert entries(source({"manifest": path, "video_column": "file", "caption_column": "text"}))[0].caption == "1"
    assert entries(source({"manifest": path, "video_column": "file", "caption": "a kite"}))[0].caption == "a kite"


def test_a_folder_with_sidecars(tmp_path):
    write(tmp_path / "b.MP4"), write(tmp_path / "b.txt", " a red\nkite ")
    write(tmp_path / "deep/a 'q' ü.webm"), write(tmp_path / "deep/a 'q' ü.txt", "a bird")
    write(tmp_path / "c.mov"), write(tmp_path / "notes.txt", "no caption of any"), write(tmp_path / "picture.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {entry.video: (entry.caption, entry.error) for entry in entries(source({"videos": tmp_path}))}
    error = f"{tmp_path}/c.mov: no caption; write it into c.txt beside it"
    assert found == {"b.MP4": ("a red kite", ""), "c.mov": ("", error), "deep/a 'q' ü.webm": ("a bird", "")}
    named = entries(source({"videos": tmp_path, "captions": "filename"}))
    assert {entry.caption for entry in named} == {"b", "c", "a 'q' ü"}
    assert {entry.caption for entry in entries(source({"videos": tmp_path, "caption": "one"}))} == {"one"}


def test_prompts_are_text_or_json_lines(tmp_path):
    plain = write(tmp_path / "p.txt", "a cat\n\n  a dog  \n")
    rows = write(tmp_path / "p.jsonl", '"a cat"\n{"caption": "a dog"}\n')
    expected = [Entry(0, "", "", "a cat"), Entry(0, "", "", "a dog")]
    assert entries(source({"prompts": plain})) == entries(source({"prompts": rows})) == expected
    assert not source({"prompts": plain}).has_videos


def test_datasets_keep_their_order_and_number(tmp_path):
    first, second = (write(tmp_path / name, text) for name, text in (("z.txt", "one\n"), ("a.txt", "two\n")))
    found = entries(source({"prompts": first}, {"prompts": second}))
    assert [(entry.dataset, entry.caption) for entry in found] == [(0, "one"), (1, "two")]


def test_a_bad_line_costs_itself(tmp_path):
    rows = [{"video": None, "caption": "x"}, {"video": "a.mp4"}, {"video": "../out.mp4", "caption": "x"}, ROWS[0]]
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in/m.jsonl", lines(*rows))
    errors = [entry.error for entry in entries(source({"manifest": path}))]
    assert "both a video and a caption" in errors[0] and "both a video and a caption" in errors[1]
    assert "outside the manifest's folder" in errors[2] and "data.allow_outside" in errors[2] and errors[3] == ""
    assert not entries(source({"manifest": path}, allow_outside=True))[2].error


def test_a_link_that_leads_outside_and_a_loop_of_links(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (tmp_path / "in/loop.mp4").symlink_to(tmp_path / "in/loop.mp4")
    rows = [{"video": name, "caption": "x"} for name in ("link.mp4", "loop.mp4", "a\0b.mp4", "n" * 5000)]
    found = entries(source({"manifest": write(tmp_path / "in/m.jsonl", lines(*rows))}))
    assert "outside" in found[0].error and len(found) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.jsonl", '{"video": \n', "m.jsonl, line 1: not valid JSON"),
        ("m.jsonl", "[1]\n", "line 1: one JSON object a line"),
        ("m.jsonl", "\n", "nothing in it"),
        ("m.jsonl", '{"clip": "a", "text": "b"}\n', r"needs 'video' and 'caption'; it has \['clip', 'text'\]"),
        ("m.csv", "clip,caption\na,b\n", "needs 'video' and 'caption'"),
        ("m.parquet", "text", "m.parquet: not readable: "),
        ("m.yaml", "a", "a manifest is .jsonl, .csv or .parquet, not .yaml"),
    ],
)
def test_manifests_that_are_none(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        entries(source({"manifest": write(tmp_path / name, text)}))


def test_videos_in_the_cells_of_a_table_are_refused_as_such(tmp_path):
    """As Hugging Face's datasets store them, and video2dataset's format parquet."""
    rows = [{"video": {"bytes": b"\0\0\0\x18ftyp", "path": "a.mp4"}, "caption": "a kite"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "hub.parquet")
    with pytest.raises(ValueError, match=r"hub.parquet: 'video' holds no text: videos are read from files and"):
        entries(source({"manifest": tmp_path / "hub.parquet"}))
    rows = [{"mp4": b"\0\0\0\x18ftyp", "txt": "a kite"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    columns = {"video_column": "mp4", "caption_column": "txt"}
    (found,) = entries(source({"manifest": tmp_path / "00000.parquet", **columns}))
    assert found.error.startswith("00000.parquet, row 1: 'mp4' holds no text: videos are read from files and from mem")


def test_what_is_not_there_is_named_with_its_key(tmp_path):
    for kind in ("manifest", "videos", "prompts"):
        with pytest.raises(ValueError, match=rf"data.datasets.1.{kind} = {tmp_path}/no: no such f"):
            check(source({"prompts": write(tmp_path / "p.txt", "a")}, {kind: tmp_path / "no"}))
    with pytest.raises(ValueError, match=r"data.manifest = .*no such file. It holds JSON lines"):
        check(Source(manifest=tmp_path / "no", frames=9, height=24, width=24))
    with pytest.raises(ValueError, match=r"this is a folder; of videos, name it by data.datasets: \[{videos"):
        check(Source(manifest=tmp_path, frames=9, height=24, width=24))
    with pytest.raises(ValueError, match=r"p.txt: this is a file, not a folder"):
        check(source({"videos": tmp_path / "p.txt"}))


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([], "give either manifest or datasets; neither"),
        ([{}], "exactly one of manifest, videos, shards, prompts, latents; it has none"),
        ([{"videos": "a", "prompts": "b"}], "it has videos and prompts"),
        ([{"prompts": "a", "captions": "filename"}], "captions = 'filename': only videos"),
        ([{"prompts": "a", "caption": "b"}], "caption = 'b': prompts are captions"),
        ([{"videos": "a", "teacher": {}}], "teacher: a teacher makes videos of prompts"),
        ([{"prompts": "a", "repeats": 1, "probability": 1}], "repeats = 1: probability"),
        ([{"id": "x", "prompts": "a"}, {"prompts": "b", "probability": 1}], "'x' has no probability"),
    ],
)
def test_datasets_that_make_no_sense(datasets, message):
    with pytest.raises(ValidationError, match=message):
        source(*datasets)


def test_repeats_and_probabilities_become_passes():
    def one(**given):
        return {"prompts": "p", **given}

    assert source(one(), one(repeats=2)).passes([5, 7]) == [1, 3]
    # Shares of 1/4 and 3/4: the larger dataset once, of the smaller as many rows as make a third of that.
    assert source(one(probability=1), one(probability=3)).passes([10, 60]) == pytest.approx([2, 1])
    assert source(one(probability=1), one(probability=3)).passes([10, 0]) == [1, 0]


def tar(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def test_shards_hold_videos_beside_their_captions(tmp_path):
    (tmp_path / "in").mkdir()
    first = {"a/1.mp4": b"one" * 500, "a/1.txt": b" a\ncat ", "a/2.0.webm": b"two", "a/2.json": b'{"caption": "a dog"}'}
    second = {"3.json": b"no JSON", "3.mp4": b"three", "4.cls": b"x"}
    tar(tmp_path / "in/00.tar", first), tar(tmp_path / "in/01.tar", second)
    found = entries(source({"shards": tmp_path / "in"}))
    assert [(e.video, e.caption, e.error) for e in found] == [
        ("00.tar/a/1.mp4", "a cat", ""),
        ("00.tar/a/2.0.webm", "a dog", ""),
        (
            "01.tar/3.mp4",
            "",
            "01.tar/3.mp4: no caption in its shard (3.json: not valid JSON: Expecting value: line 1 column 1 (char 0))",
        ),
    ]
    contents = [b"one" * 500, b"two", b"three"]
    for entry, content in zip(found, contents, strict=True):
        with local(entry.path) as path:
            assert Path(path).read_bytes() == content and Path(path).suffix == Path(entry.video).suffix
        assert not Path(path).exists()
        assert version(entry.path) == version(str(tmp_path / "in" / entry.video[:6]))
    alone = entries(source({"shards": tmp_path / "in/01.tar", "caption": "one for all"}))
    assert [e.caption for e in alone] == ["one for all"]
    (tmp_path / "in/02.tar").write_text("no tar" * 200)
    *others, bad = entries(source({"shards": tmp_path / "in"}))
    assert others == found and bad.error.startswith("02.tar: cut off or damaged (")


def test_names_that_look_like_members_are_files(tmp_path):
    path = write(tmp_path / "a::1::2::b.mp4", "x")
    with local(path) as same:
        assert same == path and version(path)[0] == 1


@pytest.fixture
def bucket():
    """fsspec's file system in memory, which stands for object stores."""
    there = fsspec.filesystem("memory")
    there.pipe(
        {
            "/clips/a.mp4": b"one",
            "/clips/a.txt": b"a cat",
            "/clips/deep/b.mp4": b"two",
            "/clips/m.csv": b"video,caption\na.mp4,x\n../c.mp4,y\n",
        }
    )
    there.pipe("/clips/p.txt", b"a kite\n")
    yield "memory://clips"
    there.rm("/clips", recursive=True)


def test_uris_are_listed_and_read_like_paths(bucket, tmp_path):
    found = entries(source({"videos": bucket}, {"manifest": f"{bucket}/m.csv"}, {"prompts": f"{bucket}/p.txt"}))
    assert [(e.dataset, e.video, e.path, e.caption, bool(e.error)) for e in found] == [
        (0, "a.mp4", "memory://clips/a.mp4", "a cat", False),
        (0, "deep/b.mp4", "memory://clips/deep/b.mp4", "", True),
        (1, "a.mp4", "memory://clips/a.mp4", "x", False),
        (1, "../c.mp4", "memory://c.mp4", "y", True),
        (2, "", "", "a kite", False),
    ]
    with local(found[0].path) as path:
        assert Path(path).read_bytes() == b"one" and version(found[0].path)[0] == 3
    with pytest.raises(BadClip, match=r"memory://clips/none.mp4: cannot be read"), local("memory://clips/none.mp4"):
        pass
    with pytest.raises(BadClip, match=r"memory://clips/a.mp4: too short"), local("memory://clips/a.mp4") as path:
        raise BadClip(path, "too short")
    with pytest.raises(ValueError, match=r"data.datasets.0.videos = memory://clips/none: no such folder"):
        check(source({"videos": f"{bucket}/none"}))
    with pytest.raises(ValueError, match=r"data.datasets.0.videos = ghost://clips: cannot be accessed .*ghost"):
        check(source({"videos": "ghost://clips"}))


def test_places_are_kept_by_a_dump(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = source({"videos": "s3://bucket/clips"}, {"prompts": "p.txt"})
    dumped = given.model_dump(mode="json")
    assert [d["videos"] or d["prompts"] for d in dumped["datasets"]] == ["s3://bucket/clips", f"{tmp_path}/p.txt"]
    assert Source.model_validate(dumped) == given and given.title == "clips + p"
