"""What is read back is what was written, or an error that names the file."""

import json
import pickle
import random

import numpy as np
import pytest

from ray_distill import sealed
from ray_distill.sealed import Damaged

VALUE = {"name": "ein Wort, zwei: ü", "count": 3, "parts": [1.5, None, {"a": (1, 2)}], "often": float("inf")}
TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4)), "c": np.uint8([[[7]]])}


def test_values_come_back(tmp_path):
    path = tmp_path / "new" / "a.json"
    sealed.write_json(path, VALUE)
    assert sealed.read_json(path) == json.loads(json.dumps(VALUE))
    sealed.write_tensors(tmp_path / "a.safetensors", TENSORS, {"numbers": "1"})
    tensors, metadata = sealed.read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"numbers": "1"} and tensors.keys() == TENSORS.keys()
    assert all(
        np.array_equal(tensors[name], array) and tensors[name].dtype == array.dtype for name, array in TENSORS.items()
    )
    for read in (sealed.read_json, sealed.read_tensors):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")


@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_each_bit_counts_or_does_no_harm(tmp_path, kind):
    path = tmp_path / "a"
    read = sealed.read_json if kind == "json" else lambda path: repr(sealed.read_tensors(path))
    sealed.write_json(path, VALUE) if kind == "json" else sealed.write_tensors(path, TENSORS, {"numbers": "1"})
    whole, wanted, draw, detected = path.read_bytes(), read(path), random.Random(0), 0
    for bit in draw.sample(range(8 * len(whole)), 300):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            assert read(path) == wanted, f"bit {bit} was not seen"
        except Damaged:
            detected += 1
    assert detected > 200


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"a": 1}', b"\xff\xfe", b'{"seal": 3}', bytes(64)])
def test_other_content_is_damage(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    for read in (sealed.read_json, sealed.read_tensors):
        with pytest.raises(Damaged, match=str(path)):
            read(path)


def test_tensors_of_others_are_damage(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, tmp_path / "a")
    with pytest.raises(Damaged, match="other tensors than were written"):
        sealed.read_tensors(tmp_path / "a")


def test_a_digest_knows_the_borders_of_its_parts():
    assert sealed.digest("ab", "c") != sealed.digest("a", "bc") != sealed.digest("abc")
    assert sealed.digest(b"ab", "c") == sealed.digest("ab", b"c") and len(sealed.digest()) == 16


def test_damage_goes_from_process_to_process():
    error = pickle.loads(pickle.dumps(Damaged("a/b", "is gone")))
    assert (error.path, error.reason, str(error)) == ("a/b", "is gone", "a/b is gone")
