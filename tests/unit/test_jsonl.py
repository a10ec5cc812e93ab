"""State files after a full disk, a power cut and a kill: what is torn is named, left out and mended."""

import json
import os
import re

import pytest

from ray_distill.jsonl import DAMAGED, Series, append_rows, read_document, read_rows, write_document
from tests.unit.disks import file_limit

ROW = {"step": 1, "values": {"a": {"b": 2}}, "note": 'a "{" in é'}
LINE = json.dumps(ROW).encode()


@pytest.mark.parametrize(
    ("content", "steps", "lines"),
    [
        (b"", [], None),
        (b"\n\n", [], None),
        (LINE, [1], None),  # whole, but for its end of line
        (LINE + b"\r\n" + LINE + b"\n", [1, 1], None),
        (LINE[:-1], [], "1 \\(1 in all\\)"),
        (LINE + b"\n" + LINE[:20], [1], "2 \\(1 in all\\)"),
        (LINE + b"\n" + LINE[:20] + b"\n" + LINE + b"\n", [1, 1], "2 \\(1 in all\\)"),
        (LINE[:20] + LINE + b"\n", [1], "1 \\(1 in all\\)"),  # appended to a torn one
        (LINE[:9] + LINE[:9] + LINE + b"\n", [1], "1 \\(1 in all\\)"),
        (LINE[30:] + b"\n", [], "1 \\(1 in all\\)"),  # its inner objects are no rows
        (LINE + b"\n" + b"\0" * 50 + b"\n" + LINE + b"\n", [1, 1], "2 \\(1 in all\\)"),
        (b"\0" * 50, [], "1 \\(1 in all\\)"),
        (b"\0" * 50 + LINE + b"\n", [1], "1 \\(1 in all\\)"),  # a block that was never written, and what came next
        (b"\xff\xfe{}\n" + LINE + b"\n", [1], "1 \\(1 in all\\)"),
        (b'[1]\n3\nnull\n"text"\n{}\n' + LINE + b"\n", [1], "1, 2, 3, 4, 5 \\(5 in all\\)"),
        (b"x\n" * 20, [], r"8, 9, 10, \.\.\. \(20 in all\)"),
        (b"[" * 5000 + b"\n" + LINE, [1], "1 \\(1 in all\\)"),
    ],
)
def test_damaged_lines_are_named_left_out_and_mended(tmp_path, caplog, content, steps, lines):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert [row["step"] for row in read_rows(path, "step")] == steps
    assert len(caplog.records) == (lines is not None)
    if lines is not None:
        assert re.search(f"{path}: torn or damaged lines are left out and removed: .*{lines}", caplog.text)
    append_rows(path, [{"step": 9}])
    caplog.clear()
    assert [row["step"] for row in read_rows(path, "step")] == [*steps, 9] and not caplog.records
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_row_after_a_torn_one_is_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [ROW])
    with path.open("ab") as file:
        file.write(LINE[:25])
    append_rows(path, [ROW, ROW])
    assert path.read_bytes().split(b"\n") == [LINE, LINE[:25], LINE, LINE, b""]


def test_rows_are_written_all_or_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [])
    assert not path.exists() and read_rows(path) == []
    append_rows(path, [ROW])
    with file_limit(len(LINE) + 30), pytest.raises(OSError, match="too large"):
        append_rows(path, [ROW])
    assert path.read_bytes() == LINE + b"\n"


def test_rows_wait_while_the_disk_takes_none(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    series = Series(path)
    series.add([{"step": 0.0}])
    with file_limit(path.stat().st_size + 20):  # of the next rows the first fits, and a part of the second
        for step in (1.0, 2.0, 3.0):
            series.add([{"step": step}])
    assert [row["step"] for row in read_rows(path)] == [0.0, 1.0]
    assert len(caplog.records) == 1 and "they wait in memory" in caplog.text
    series.add([{"step": 4.0}])
    assert [row["step"] for row in read_rows(path)] == [0.0, 1.0, 2.0, 3.0, 4.0] and series.waiting == []


def test_what_cannot_be_mended_is_read_all_the_same(tmp_path, caplog, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE[:20] + b"\n" + LINE)
    with file_limit(10):
        assert read_rows(path) == [ROW]
    assert "cannot be mended" in caplog.text and path.read_bytes() == LINE[:20] + b"\n" + LINE
    document = tmp_path / "run.json"
    document.write_text("{")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    assert read_document(document) == {} and "nor can it be renamed" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\0" * 40, b'{"run_id": "0', b"null", b"[1]", b"\xff{}", b"{}{}", b"{}"]
)
def test_a_damaged_document_is_named_and_set_aside(tmp_path, caplog, content):
    path = tmp_path / "run.json"
    assert read_document(path, "step") == {} and not caplog.records
    path.write_bytes(content)
    assert read_document(path, "step") == {}
    aside = tmp_path / f"run.json{DAMAGED}"
    assert f"{path} is torn or damaged ({len(content)} bytes) and not used; it is kept as {aside}" in caplog.text
    assert aside.read_bytes() == content and not path.exists()
    caplog.clear()
    write_document(path, ROW)
    assert read_document(path, "step") == ROW and not caplog.records


def test_a_document_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_document(path, ROW)
    with file_limit(10), pytest.raises(OSError, match="too large"):
        write_document(path, {"other": "x" * 100})
    assert read_document(path) == ROW and os.listdir(tmp_path) == ["report.json"]


def test_a_series_is_cut_at_a_step(tmp_path):
    series = Series(tmp_path / "rows.jsonl")
    series.add([{"step": step} for step in range(5)])
    series.waiting = [{"step": 2}, {"step": 9}]
    series.cut(3)
    series.add([])
    assert read_rows(series.path, "step") == [{"step": step} for step in (0, 1, 2, 2)]
