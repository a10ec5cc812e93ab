"""The content of each family's folder, and names that nothing above models/ may use."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_distill.config import RunConfig
from ray_distill.models import FAMILIES, family, family_of
from ray_distill.models.conditions import collate, empty, from_bytes, to_bytes, unconditional
from ray_distill.models.loading import published_configs
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Family, Field
from tests.unit.toys import run_config

PACKAGE = Path(__file__).parents[3] / "ray_distill"
FILES = re.findall(
    r"^\| `([\w/*.]+)` \|", (PACKAGE.parent / "docs/families.md").read_text().split("| entry of")[0], re.M
)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_folder_holds_what_the_guide_says(name):
    assert "family.py" in FILES and len(FILES) == 8
    declared = family(name)
    assert isinstance(declared, Family) and declared.name == name
    assert family_of(declared.transformer.__name__) is declared
    for file in FILES:
        needed = not file.startswith("published") and (file != "sequence.py" or declared.exchange_heads is not None)
        assert list((PACKAGE / "models" / name).glob(file)) or not needed, file
    assert declared.export.script.is_file()
    for described in published_configs(declared).values():
        assert declared.patch(described["transformer"]) and described["vae"]["_class_name"] == declared.parts["vae"]


NAMED = re.compile(
    r"models\.(wan|ltx2?|cogvideox|hunyuan15)\b|\[?\"text_mask\"|cond\[\"|\{\"text\":|text_(embed_)?dim|caption_channels"
    r"|\bUMT5|\b4n ?- ?3|\b4k ?\+ ?1|- 1\) // \d"
)


def test_nothing_above_the_models_names_a_family_or_a_tensor_of_one():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        if not where.startswith("models/"):
            found += [f"{where}: {line.strip()}" for line in path.read_text().splitlines() if NAMED.search(line)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        'cond = {"text": text}',
        "from ray_distill.models.wan import causal",
        'x = cond["text"]',
        "latent = (frames - 1) // 4 + 1",
    ],
)
def test_a_planted_name_is_found(line):
    assert NAMED.search(line)


FIELDS = {
    "words": Field((4, 2), padding="mask", dtype="bfloat16"),
    "marks": Field((3, 2), padding="zeros"),
    "first": Field((2, "h", "w"), of="clip"),
}
LATENT = (2, 5, 1, 3)


def row(words, marks):
    return {"words": torch.ones(words, 2), "marks": torch.full((marks, 2), 2.0), "first": torch.full((2, 1, 3), 3.0)}


def test_rows_become_a_batch_by_the_rule_of_each_field():
    cond = collate([row(1, 3), row(4, 0)], FIELDS)
    assert cond["words"].shape == (2, 4, 2) and cond["words_mask"].tolist() == [[True, False, False, False], [True] * 4]
    assert cond["words"][0, 1:].abs().sum() == 0 and cond["marks"][1].abs().sum() == 0 and "marks_mask" not in cond
    alone = collate([row(1, 3)], FIELDS)
    assert all(torch.equal(value[:1], alone[name]) for name, value in cond.items())
    shapes = {name: value.shape for name, value in empty(FIELDS, 2, LATENT).items()}
    assert shapes == {name: value.shape for name, value in cond.items()}
    with pytest.raises(ValueError, match="words of 5 tokens: the family declares 4 at most"):
        collate([row(5, 1)], FIELDS)


def test_a_valid_token_of_zeros_is_a_token():
    """The tokenizer's count is the length, not the number of nonzero rows."""
    given = row(2, 1) | {"words": torch.zeros(2, 2)}
    stored = {name: to_bytes(name, given[name], field, LATENT) for name, field in FIELDS.items()}
    assert len(stored["words"]) == 2 * 2 * 2 and len(stored["marks"]) == 4 * 2
    again = from_bytes(stored, FIELDS, LATENT)
    assert {name: value.shape for name, value in again.items()} == {n: v.shape for n, v in given.items()}
    assert collate([again], FIELDS)["words_mask"].sum() == 2
    with pytest.raises(ValueError, match=r"words is \[2, 3\], and its family declares \[4, 2\]"):
        to_bytes("words", torch.zeros(2, 3), FIELDS["words"], LATENT)
    with pytest.raises(ValueError, match="a clip's field has the shape of its latents"):
        Field((4, 2), of="clip", padding="zeros")


def test_a_caption_without_tokens_of_a_kind_is_stored():
    given = row(0, 2)
    stored = {name: to_bytes(name, given[name], field, LATENT) for name, field in FIELDS.items()}
    assert stored["words"] == b""
    again = from_bytes(stored, FIELDS, LATENT)
    assert again["words"].shape == (0, 2) and again["words"].dtype == torch.bfloat16
    assert not collate([again], FIELDS)["words_mask"].any()


def test_the_unconditional_branch_keeps_what_belongs_to_the_clip():
    cond = collate([row(1, 1), row(2, 2)], FIELDS)
    uncond = unconditional({name: value for name, value in row(3, 0).items() if name != "first"}, cond, FIELDS)
    assert uncond.keys() == cond.keys() and uncond["first"] is cond["first"]
    assert uncond["words_mask"].sum(1).tolist() == [3, 3] and uncond["marks"].abs().sum() == 0


def test_a_pipelines_facts_are_read_once(tmp_path, monkeypatch):
    from shutil import copytree

    folder = copytree(PACKAGE.parent / "examples/digits_teacher", tmp_path / "model")
    pipeline = Pipeline("wan", folder)
    assert pipeline.multiple == (8, 8) and pipeline.latent_shape(9, 24, 24) == (16, 3, 6, 6)
    assert pipeline.fields(8) == {"text": Field((8, 64), padding="zeros")}
    (folder / "transformer/config.json").unlink()
    (folder / "vae/config.json").unlink()
    assert pipeline.multiple == (8, 8) and pipeline.transformer["text_dim"] == 64
    assert Pipeline("ltx", tmp_path / "none").codec.stride == (8, 32, 32)  # its own default, not Wan's


def test_adapters_without_targets_have_their_familys(tmp_path, monkeypatch):
    adapter = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-4}}
    plain = run_config(tmp_path, roles__student=adapter)
    assert plain.role("student").lora.targets == family("wan").targets == ("to_q", "to_k", "to_v", "to_out.0")
    monkeypatch.setattr("ray_distill.models.wan.family.FAMILY", replace(family("wan"), targets=("to_q", "ffn.net.2")))
    own = run_config(tmp_path, roles__student=adapter, roles__fake_score=adapter | {"lora": {"targets": ["to_v"]}})
    assert own.role("student").lora.targets == ("to_q", "ffn.net.2")
    assert own.role("student").lora.rank == 2 and own.role("fake_score").lora.targets == ("to_v",)
    assert RunConfig.model_validate(own.dump()) == own
    assert run_config(tmp_path, model__family="ltx", roles__student=adapter).role("student").lora.targets == (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    )
