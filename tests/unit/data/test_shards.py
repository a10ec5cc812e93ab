"""Shards as people have them: every member is read or named."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.remote import local
from tests.unit.data.test_captions import captions, put
from tests.unit.data.test_listing import entries, source, tar


def test_words_in_a_shard_belong_to_their_video(tmp_path):
    members = {
        "take 2.0.mp4": b"0", "take 2.0.txt": b"zero", "take 2.1.mp4": b"1", "take 2.1.TXT": b"one",
        "take 2.2.mp4": b"2",
        "e39.base.mp4": b"b", "e39.pose.mp4": b"p", "e39.json": b'{"caption": "a hand"}',
        "v.json": b'{"url": "x", "duration": 3.0}', "v.mp4": b"v", "v.txt": b"by txt",
        "w.txt": b"\xff", "w.mp4": b"w", "w.json": b'{"caption": "by json"}',
        "x.MP4": b"x", "x.en.txt": b"english", "y.mp4": b"y", "y.en.txt": b"english", "y.de.txt": b"deutsch",
        "z.txt": b"no video", "z.json": b"{}", "readme.md": b"",
    }  # fmt: skip
    found = {
        e.video.removeprefix("s.tar/"): e.error or e.caption
        for e in entries(source({"shards": tar(tmp_path / "s.tar", members)}))
    }
    assert found == {
        "take 2.0.mp4": "zero", "take 2.1.mp4": "one", "take 2.2.mp4": "s.tar/take 2.2.mp4: no caption in its shard",
        "e39.base.mp4": "a hand", "e39.pose.mp4": "a hand", "v.mp4": "by txt", "w.mp4": "by json", "x.MP4": "english",
        "y.mp4": "s.tar/y.mp4: which of y.de.txt, y.en.txt is its caption?",
        "z.txt": "s.tar/z.txt: no video beside it in its shard",
    }  # fmt: skip


def test_members_that_cannot_be_read_are_named(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, kind, link in (
            ("0.mp4", tarfile.REGTYPE, ""),
            ("0.txt", tarfile.REGTYPE, ""),
            ("1.mp4", tarfile.SYMTYPE, "/etc/hostname"),
            ("2.mp4", tarfile.LNKTYPE, "0.mp4"),
            ("3.mp4", tarfile.FIFOTYPE, ""),
            ("4.mp4", tarfile.REGTYPE, ""),
            ("4.txt", tarfile.SYMTYPE, "../../etc/hostname"),
            ("0.mp4", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 0 if kind != tarfile.REGTYPE else 6
            shard.addfile(info, io.BytesIO(b"a kite"))
    found = entries(source({"shards": tmp_path / "s.tar"}))
    assert [(e.video, e.caption, e.error.partition(": ")[2]) for e in found] == [
        ("s.tar/0.mp4", "a kite", ""),
        ("s.tar/4.mp4", "", "no caption in its shard (4.txt: it is a link to ../../etc/hostname)"),
        ("s.tar/1.mp4", "", "it is a link to /etc/hostname"),
        ("s.tar/2.mp4", "", "it is a link to 0.mp4"),
        ("s.tar/3.mp4", "", "it is no regular file"),
        ("s.tar/0.mp4", "", "a later member has the same name"),
    ]


MEMBERS = {f"{n}.{kind}": content for n in range(3) for kind, content in (("mp4", b"v" * 700), ("txt", b"a kite"))}


def test_shards_that_are_no_whole_archives_lose_nothing_uncounted(tmp_path):
    """Whole members are read; everything else is a line in the list of faults."""
    whole = tar(tmp_path / "whole.tar", MEMBERS).read_bytes()
    second = 2 * (512 + 1024) - 512  # the header of 1.mp4: a header and two blocks, a header and one block
    cases = {
        "cut": (whole[: second + 512 + 300], ["0.mp4"], ["1.mp4: it is cut off", "cut off or damaged"]),
        "seam": (whole[:second], ["0.mp4"], [f"cut off or damaged at byte {second}"]),
        "header": (whole[:second] + b"\xff" * 512 + whole[second + 512 :], ["0.mp4"], [f"damaged at byte {second}"]),
        "two": (whole + whole, ["0.mp4", "1.mp4", "2.mp4"], ["continues behind its end mark"]),
        "empty": (b"", [], ["cut off or damaged (empty file)"]),
        "gz": (b"\x1f\x8b" + whole, [], ["decompress it"]),
    }
    for name, (content, good, errors) in cases.items():
        path = put(tmp_path / f"in/{name}.tar", content)
        found = entries(source({"shards": path}))
        assert [e.video.split("/")[1] for e in found if not e.error] == good, name
        bad = [e.error for e in found if e.error]
        assert len(bad) == len(errors) and all(map(str.__contains__, bad, errors)), (name, bad)
    (tmp_path / "in/dangling.tar").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/folder.tar").mkdir()
    put(tmp_path / "in/s.tar.gz", b""), put(tmp_path / "in/t.TGZ", b""), put(tmp_path / "in/deep/UP.TAR", whole)
    found = entries(source({"shards": tmp_path / "in"}))
    bad = {e.video: e.error for e in found if e.error}
    assert "cannot be read" in bad["dangling.tar"] and "no regular file" in bad["folder.tar"]
    assert "decompress it" in bad["s.tar.gz"] and "decompress it" in bad["t.TGZ"]
    upper = [e for e in found if e.video.startswith("deep/UP.TAR/")]
    assert len(upper) == 3 and not any(e.error for e in upper)
    with local(upper[0].path) as path:
        assert Path(path).read_bytes() == b"v" * 700


def test_one_caption_for_all_needs_none_in_the_shard(tmp_path):
    shard = tar(tmp_path / "s.tar", {"0.mp4": b"0", "1.mp4": b"1", "1.txt": b"\xff", "2.txt": b"no video"})
    assert captions(entries(source({"shards": shard, "caption": "x"}))) == [["x"], ["x"]]


def test_a_member_whose_shard_was_cut_since(tmp_path):
    shard = tar(tmp_path / "s.tar", MEMBERS)
    last = entries(source({"shards": shard}))[-1]
    os.truncate(shard, 4 * 1536 + 100)
    with pytest.raises(BadClip, match=r"cut off: only \d+ of its 700 bytes were read"), local(last.path):
        pass


@pytest.mark.parametrize("caption", [None, "one for all"])
@pytest.mark.parametrize("members", [None, {}, {"0.jpg": b"0", "0.npy": b"1"}])
def test_a_shard_without_clips_is_named(tmp_path, members, caption):
    """A disk that lost a file's content returns zeros, which are an empty archive."""
    put(tmp_path / "in/b.tar", bytes(20 << 10))
    tar(tmp_path / "in/a.tar", {"0.mp4": b"0", "0.txt": b"a kite"})
    if members is not None:
        tar(tmp_path / "in/b.tar", members)
    found = entries(source({"shards": tmp_path / "in", "caption": caption}))
    assert [(e.video, e.error) for e in found] == [("a.tar/0.mp4", ""), ("b.tar", "b.tar: no video in it")]
