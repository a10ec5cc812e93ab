#!/usr/bin/env bash
# Captions that look like dates, in JSON lines and CSV, read by pyarrow.
# Versions: pyarrow 25.0.1.
# Guess: JSON has a type for text, so a quoted value stays text; in CSV, too, a column of captions stays one.
# Seen: a JSON column whose values all look like dates becomes timestamps (a date of midnight is all the same afterwards), and one caption
# that does not turns the whole column back to text: two shards of one set have two types. In CSV such a column becomes dates, `true` and
# `false` become bool, and an id such as 007 becomes 7. A type that is named keeps the text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==25.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

TEXT = pa.schema([("caption", pa.string())])


def of_json(*captions, schema=None):
    lines = "".join(json.dumps({"caption": caption}) + "\n" for caption in captions)
    options = pa.json.ParseOptions(explicit_schema=schema)
    return pa.json.read_json(io.BytesIO(lines.encode()), parse_options=options)["caption"]


def of_csv(*values, types=None):
    lines = "caption\n" + "".join(f"{value}\n" for value in values)
    return pa.csv.read_csv(io.BytesIO(lines.encode()), convert_options=pa.csv.ConvertOptions(column_types=types))["caption"]


print(f"pyarrow {pa.__version__}")
for name, column, expected in (
    ("JSON, dates alone", of_json("2024-05-01", "2024-05-01 10:00:00"), "timestamp[s]"),
    ("JSON, and a sentence", of_json("2024-05-01", "a dog at noon"), "string"),
    ("JSON, type named", of_json("2024-05-01", schema=TEXT), "string"),
    ("CSV, dates", of_csv("2024-05-01", "2024-05-02"), "date32[day]"),
    ("CSV, true and false", of_csv("true", "false"), "bool"),
    ("CSV, 007 and 008", of_csv("007", "008"), "int64"),
    ("CSV, type named", of_csv("007", types={"caption": pa.string()}), "string"),
):
    print(f"{name}: {column.type}, {column.to_pylist()}")
    assert str(column.type) == expected, f"expected {expected}"
PYTHON
