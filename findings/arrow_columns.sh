#!/usr/bin/env bash
# A folder of Parquet files whose columns differ: the second has one more, the third the same one as floats.
# Versions: pyarrow 25.0.1.
# Guess: the table has all columns of all files, with nulls where a file lacks one, and integers beside floats are floats.
# Seen: the file whose name comes first decides. Columns that only later ones have are left out without a word, by dataset and by read_table;
# integers are read from a later file of floats where these are whole, and an error where they are not; a column that the first file has
# alone is null in the others. Named in the other order, the same files give another table. unify_schemas adds the column, and of floats
# and integers it raises unless it is asked to promote.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==25.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

PLAIN, MORE, FLOATS = {"frames": [49]}, {"frames": [81], "caption": ["a dog"]}, {"frames": [33.0]}


def table(*files):
    """What a folder of these files is read as, by both readers."""
    with tempfile.TemporaryDirectory() as folder:
        for number, columns in enumerate(files):
            pq.write_table(pa.table(columns), Path(folder) / f"{number}.parquet")
        found = pa.dataset.dataset(folder).to_table()
        assert found.equals(pq.read_table(folder)), "expected both readers to agree"
        return found.to_pydict()


print(f"pyarrow {pa.__version__}")
for name, files, expected in (
    ("one column, then two", (PLAIN, MORE), {"frames": [49, 81]}),
    ("two columns, then one", (MORE, PLAIN), {"frames": [81, 49], "caption": ["a dog", None]}),
    ("integers, then whole floats", (PLAIN, FLOATS), {"frames": [49, 33]}),
    ("floats, then integers", (FLOATS, PLAIN), {"frames": [33.0, 49.0]}),
):
    seen = table(*files)
    print(f"{name}: {seen}")
    assert seen == expected and type(seen["frames"][0]) is type(expected["frames"][0]), f"expected {expected}"
try:
    table(PLAIN, {"frames": [33.5]})
    raise SystemExit("expected an error")
except pa.ArrowInvalid as error:
    print(f"integers, then 33.5: {error}")
schemas = [pa.table(columns).schema for columns in (PLAIN, MORE)]
print(f"unify_schemas: {pa.unify_schemas(schemas).names}")
assert pa.unify_schemas(schemas).names == ["frames", "caption"]
try:
    pa.unify_schemas([pa.table(PLAIN).schema, pa.table(FLOATS).schema])
    raise SystemExit("expected an error")
except pa.ArrowTypeError:
    assert pa.unify_schemas([pa.table(PLAIN).schema, pa.table(FLOATS).schema], promote_options="permissive").types == [pa.float64()]
PYTHON
