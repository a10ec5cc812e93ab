"""Captions and prompts in all kinds of sources: the text of a clip, or the reason why it has none."""

import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tests.unit.data.test_listing import ROWS, entries, lines, source, tar


def captions(found):
    """The captions from which a sample draws, or the error."""
    return [e.error or [e.caption, *json.loads(e.others or "[]")] for e in found]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_names_the_encoding_of_all_text(tmp_path, encoding):
    rows = json.dumps({"video": "a.mp4", "caption": "un café"}, ensure_ascii=False) + "\n"
    manifest = put(tmp_path / "m.jsonl", rows.encode(encoding))
    table = put(tmp_path / "m.csv", "video,caption\na.mp4,un café\n".encode(encoding))
    array = put(tmp_path / "m.json", f"[\n{rows}]".encode(encoding))
    plain = put(tmp_path / "p.txt", "un café\r\n".encode(encoding))
    put(tmp_path / "in/a.mp4", b""), put(tmp_path / "in/a.txt", "un café\r\n".encode(encoding))
    names = {"0.mp4": b"0", "0.txt": "un café".encode(encoding), "1.mp4": b"1", "1.json": rows.encode(encoding)}
    shard = tar(tmp_path / "s.tar", names)
    folder = {"videos": tmp_path / "in"}
    for part in ({"manifest": manifest}, {"manifest": table}, {"manifest": array}, {"prompts": plain}, folder):
        assert captions(entries(source(part))) == [["un café"]]
    assert captions(entries(source(folder | {"captions": "lines"}))) == [["un café"]]
    assert captions(entries(source({"shards": shard}))) == [["un café"]] * 2


def test_a_line_that_is_no_text_costs_itself(tmp_path):
    """The line is named with its number and the reason, in all kinds of sources."""
    good, bad = b'{"video": "a.mp4", "caption": "a kite"}\n', b'{"video": "b.mp4", "caption": "caf\xe9"}\n'
    path = put(tmp_path / "m.jsonl", good + bad + b"[" * 100_000 + b"\n" + good)
    first, latin, deep, last = captions(entries(source({"manifest": path})))
    assert first == last == ["a kite"] and latin == "m.jsonl, line 2: not UTF-8 (byte 0xe9); save it as UTF-8"
    assert deep == "m.jsonl, line 3: not valid JSON: nested too deep"
    path = put(tmp_path / "m.csv", b"video,caption\nb.mp4,caf\xe9\na.mp4,a kite\n")
    assert [e.error[:28] for e in entries(source({"manifest": path}))] == ["m.csv, line 2: not UTF-8 (by", ""]
    path = put(tmp_path / "p.txt", b"a kite\ncaf\xe9\n\na\0b\n")
    _, latin, nul = captions(entries(source({"prompts": path})))
    assert latin.startswith("p.txt, line 2: not UTF-8") and "p.txt, line 4: not text" in nul
    put(tmp_path / "in/a.mp4", b""), put(tmp_path / "in/a.txt", "child’s".encode("cp1252"))
    assert "a.txt: not UTF-8 (byte 0x92)" in captions(entries(source({"videos": tmp_path / "in"})))[0]
    texts = pa.array([b"a kite", b"caf\xe9"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"video": ["a.mp4", "b.mp4"], "caption": texts}), tmp_path / "m.parquet")
    _, latin = captions(entries(source({"manifest": tmp_path / "m.parquet"})))
    assert latin == "m.parquet, row 2: not UTF-8 (byte 0xe9); save it as UTF-8"


@pytest.mark.parametrize("caption", ["2024-05-01", "2024-05-01 10:00:00", "007", "1e3", "true", "NA", "None", "nan"])
def test_text_that_looks_like_another_type_stays_text(tmp_path, caption):
    """Other readers of tables would turn such columns into dates, numbers, booleans or nulls."""
    manifest = put(tmp_path / "m.jsonl", lines({"video": "a.mp4", "caption": caption}).encode())
    table = put(tmp_path / "m.csv", f"video,caption\na.mp4,{caption}\n".encode())
    parquet.write_table(pa.table({"video": ["a.mp4"], "caption": [caption]}), tmp_path / "m.parquet")
    for path in (manifest, table, tmp_path / "m.parquet"):
        assert captions(entries(source({"manifest": path}))) == [[caption]]


BLANK = ["", "  \n", "\u3000\u200b", None]


def test_blank_captions_are_none_in_all_kinds_of_source(tmp_path):
    rows = [{"video": f"{number}.mp4", "caption": text} for number, text in enumerate(BLANK)]
    rows.append({"video": "4.mp4", "caption": [" ", None]})
    path = put(tmp_path / "m.jsonl", lines(*rows).encode())
    assert all("no caption" in error for error in captions(entries(source({"manifest": path}))))
    parquet.write_table(pa.Table.from_pylist(rows[:4]), tmp_path / "m.parquet")
    assert all("no caption" in error for error in captions(entries(source({"manifest": tmp_path / "m.parquet"}))))
    path = put(tmp_path / "m.csv", "video,caption\na.mp4,\nb.mp4,\u200b\n".encode())
    assert all("no caption" in error for error in captions(entries(source({"manifest": path}))))
    path = put(tmp_path / "p.jsonl", b'""\n{"caption": " "}\n{"caption": null}\n"a kite"\n')
    assert ["no caption" in found for found in captions(entries(source({"prompts": path})))] == [True] * 3 + [False]
    put(tmp_path / "in/a.mp4", b""), put(tmp_path / "in/a.txt", "\ufeff \n".encode())
    put(tmp_path / "in/_.mp4", b"")
    for how in ("sidecar", "lines", "filename"):
        found = {e.video: e.error for e in entries(source({"videos": tmp_path / "in", "captions": how}))}
        assert "no caption" in found["_.mp4"] and ("no caption" in found["a.mp4"] or how == "filename")
    shard = tar(tmp_path / "s.tar", {"0.mp4": b"0", "0.txt": b" ", "1.mp4": b"1", "1.json": b'{"caption": ""}'})
    assert all("no caption in its shard" in error for error in captions(entries(source({"shards": shard}))))
    with pytest.raises(ValidationError, match="caption is blank"):
        source({"videos": tmp_path, "caption": " "})


def test_several_captions_of_a_clip_are_choices(tmp_path):
    two = ["one", "two"]
    path = put(tmp_path / "m.jsonl", lines({"video": "a.mp4", "caption": [*two, " ", "one", None]}, ROWS[0]).encode())
    assert captions(entries(source({"manifest": path}))) == [two, ["a cat"]]
    for column in ([two, ["three"]], pa.array([two, ["three"]], pa.large_list(pa.binary()))):
        parquet.write_table(pa.table({"video": ["a.mp4", "b.mp4"], "caption": column}), tmp_path / "m.parquet")
        assert captions(entries(source({"manifest": tmp_path / "m.parquet"}))) == [two, ["three"]]
    put(tmp_path / "in/a.mp4", b""), put(tmp_path / "in/a.txt", b"one\r\n\n two \none\n")
    assert captions(entries(source({"videos": tmp_path / "in", "captions": "lines"}))) == [two]
    assert captions(entries(source({"videos": tmp_path / "in"}))) == [["one two one"]]
    shard = tar(
        tmp_path / "s.tar", {"0.mp4": b"0", "0.txt": b"one\ntwo", "1.mp4": b"1", "1.json": b'{"caption": ["x", "y"]}'}
    )
    assert captions(entries(source({"shards": shard, "captions": "lines"}))) == [two, ["x", "y"]]
    path = put(tmp_path / "p.jsonl", lines({"caption": two}).encode())
    assert captions(entries(source({"prompts": path}))) == [two]
    assert "the teacher makes a video of one" in captions(entries(source({"prompts": path, "teacher": {}})))[0]


@pytest.mark.parametrize("value", [7, True, {"en": "a kite"}, ["a kite", 7]])
def test_a_caption_is_text(tmp_path, value):
    path = put(tmp_path / "m.jsonl", lines({"video": "a.mp4", "caption": value}, ROWS[0]).encode())
    bad, good = captions(entries(source({"manifest": path})))
    assert "a.mp4: a caption is a text or a list of texts, not " in bad and "(line 1)" in bad and good == ["a cat"]


def test_prompts_are_tables_too(tmp_path):
    expected = [["a red, fast kite"], ["a blue one"]]
    table = put(tmp_path / "p.csv", b'n,caption\n1,"a red, fast kite"\n2,a blue one\n')
    array = put(tmp_path / "p.json", json.dumps([expected[0][0], {"caption": "a blue one"}], indent=1).encode())
    parquet.write_table(pa.table({"caption": [text for (text,) in expected]}), tmp_path / "p.parquet")
    for path in (table, array, tmp_path / "p.parquet"):
        assert captions(entries(source({"prompts": path}))) == expected
    path = put(tmp_path / "q.jsonl", b'"a kite"\n["one", "two"]\n')  # two prompts, or one with two captions?
    assert 'q.jsonl, line 2: one text or JSON object a line, not ["one", "two"]' in captions(
        entries(source({"prompts": path}))
    )
    path = put(tmp_path / "q.csv", b"prompt\na kite\n")
    with pytest.raises(ValueError, match=r"each line needs 'caption'; it has \['prompt'\]"):
        entries(source({"prompts": path}))
    assert captions(entries(source({"prompts": path, "caption_column": "prompt"}))) == [["a kite"]]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_rows_of_a_csv_that_are_none_cost_themselves(tmp_path, sign):
    rows = [
        "video, caption",
        'a.mp4, "red, ""fast""\nand over; two\tlines"',
        'b.mp4,a 6" screen',
        'c.mp4,"never closed',
        "d.mp4,one,two" if sign == "," else "d.mp4,one,two,three",
        'e.mp4,"well"',
    ]
    text = "\n".join(rows[:2]).replace("video, c", f"video{sign} c").replace("mp4, ", f"mp4{sign} ")
    text += "\n" + "\n".join(row.replace(",", sign) for row in rows[2:])
    found = entries(source({"manifest": put(tmp_path / "m.csv", text.encode())}))
    shown = {e.video: e.caption or e.error for e in found}
    assert shown["a.mp4"] == 'red, "fast"\nand over; two\tlines' and shown["b.mp4"] == 'a 6" screen'
    assert "no valid CSV" in shown["m.csv, line 5"] and "values for 2 columns" in shown["m.csv, line 6"]
    assert shown["e.mp4"] == "well" and len(found) == 5


def test_a_csv_with_two_columns_of_one_name(tmp_path):
    path = put(tmp_path / "m.csv", b"video,caption,caption\na.mp4,x,y\n")
    with pytest.raises(ValueError, match=r"m.csv: line 1: two columns are called 'caption'"):
        entries(source({"manifest": path}))


def test_sidecars_that_cannot_be_read_cost_their_clip(tmp_path):
    for name in ("good", "link", "folder", "pipe", "large", "upper"):
        put(tmp_path / f"{name}.mp4", b"")
    put(tmp_path / "good.txt", b"a kite"), put(tmp_path / "upper.TXT", b"a kite")
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate((16 << 20) + 1)
    for how in ("sidecar", "lines"):
        found = {e.video[:-4]: e.error or e.caption for e in entries(source({"videos": tmp_path, "captions": how}))}
        assert found["good"] == found["upper"] == "a kite"
        assert "its caption link.txt cannot be read ([Errno 2]" in found["link"]
        assert all(
            f"its caption {n}.txt cannot be read (it is no regular file)" in found[n] for n in ("folder", "pipe")
        )
        assert "large.txt: it has more than 16777216 bytes" in found["large"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    put(tmp_path / "a.mp4", b""), put(tmp_path / "locked/b.mp4", b""), put(tmp_path / "locked/s.tar", b"")
    scan = os.scandir

    def guarded(path):  # root may read all folders
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    locked, good = entries(source({"videos": tmp_path, "caption": "x"}))
    assert locked.error == "locked: a folder that cannot be read (Permission denied)" and good.video == "a.mp4"
    (locked,) = entries(source({"shards": tmp_path}))
    assert locked.video == "locked" and "cannot be read" in locked.error


def test_an_entry_of_a_json_list_that_is_no_text_costs_itself(tmp_path):
    path = put(tmp_path / "p.json", b'["a kite",\n"caf\xe9",\n"a hat"]')
    first, latin, last = captions(entries(source({"prompts": path})))
    assert (first, last) == (["a kite"], ["a hat"])
    assert latin == "p.json, entry 2: not UTF-8 (byte 0xe9); save it as UTF-8"
    rows = b'[{"video": "a.mp4", "caption": "a kite"}, {"video": "b.mp4", "caption": ["one", "caf\xe9"]}]'
    good, bad = captions(entries(source({"manifest": put(tmp_path / "m.json", rows)})))
    assert good == ["a kite"] and bad == "m.json, entry 2: not UTF-8 (byte 0xe9); save it as UTF-8"
    for content, message in ((b'["caf\xe9", "a', "not UTF-8"), (b"[0\0, 1]", "NUL")):
        with pytest.raises(ValueError, match=message):
            entries(source({"prompts": put(tmp_path / "q.json", content)}))


def test_a_bad_byte_of_a_dictionary_costs_its_rows(tmp_path):
    """Arrow would check UTF-8 in all values of a dictionary at once."""
    words = pa.array([b"a kite", b"caf\xe9"]).view(pa.string())
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), words)
    for column in (words, pa.ListArray.from_arrays([0, 1, 2, 3], words)):
        table = pa.table({"video": ["a.mp4", "b.mp4", "c.mp4"], "caption": column})
        parquet.write_table(table, tmp_path / "m.parquet")
        first, latin, last = captions(entries(source({"manifest": tmp_path / "m.parquet"})))
        assert first == last == ["a kite"]
        assert latin == "m.parquet, row 2: not UTF-8 (byte 0xe9); save it as UTF-8"


def test_what_a_table_is_called(tmp_path):
    """The suffix decides: a table that is read as plain text would give its own syntax as prompts."""
    for name, content in {
        "p.tsv": b"n\tcaption\n1\ta kite\n",
        "p.ndjson": b'{"caption": "a kite"}\n',
        "p.csv": b"\n\ncaption\na kite\n",
        "p.TXT": b"a kite\n",
        "prompts": b"a kite\n",
    }.items():
        assert captions(entries(source({"prompts": put(tmp_path / name, content)}))) == [["a kite"]], name
    for name in ("p.yaml", "p.YML", "p.toml", "p.xml"):
        with pytest.raises(ValueError, match=f"p{name[1:].lower()} is not supported; write .jsonl".removeprefix("p")):
            entries(source({"prompts": put(tmp_path / name, b"- a kite\n")}))
    for name, content in {"m.tsv": b"video\tcaption\na.mp4\ta kite\n", "m.ndjson": lines(ROWS[0]).encode()}.items():
        assert len(entries(source({"manifest": put(tmp_path / name, content)}))) == 1
