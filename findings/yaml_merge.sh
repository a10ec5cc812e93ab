#!/usr/bin/env bash
# YAML's merge key over two levels: z merges x, which merges base and overrides two keys of it, one a word and one a letter.
# Versions: PyYAML 6.0.4, and 6.0.3 beside it.
# Guess: z gets what x has, as the merge key's description says, in both.
# Seen: in 6.0.4 z gets the base's value of the letter, without a word, and x's of the word: keys are told apart by the identity of
# their text, and Python has each text of one letter once. 6.0.3 is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 6.0.3 6.0.4; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check PyYAML==$version
    "$folder/$version/bin/python" - <<'PYTHON'
import yaml

TEXT = """
base: &base {rate: 2, b: 2}
x: &x {<<: *base, rate: 3, b: 3}
z: {<<: *x}
more: {<<: *x, name: z}
"""
SEEN = {"6.0.3": 3, "6.0.4": 2}
tree = yaml.safe_load(TEXT)
print(f"PyYAML {yaml.__version__}: x {tree['x']}, z {tree['z']}, more {tree['more']}")
expected = SEEN[yaml.__version__]
assert tree["x"] == {"rate": 3, "b": 3} and tree["z"]["rate"] == 3
assert tree["z"]["b"] == tree["more"]["b"] == expected, f"expected {expected} in z"
PYTHON
done
