"""An adapter that approximates what training changed: exact where its rank suffices, else as near as possible."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from ray_distill.config import ConfigError
from ray_distill.export.diffusers import ADAPTER
from ray_distill.export.low_rank import factors, low_rank
from ray_distill.export.student import _cut, export
from tests.checkpoints import write
from tests.unit.export.test_adapter import SHAPE, run, velocity  # noqa: F401
from tests.unit.toys import run_config


def matrix(rows: int, columns: int, values: list[float]) -> torch.Tensor:
    """A matrix with these singular values."""
    u, v = (torch.linalg.qr(torch.randn(n, len(values)))[0] for n in (rows, columns))
    return u @ torch.diag(torch.tensor(values)) @ v.T


@pytest.mark.parametrize("shape", [(96, 80), (12, 200), (6, 1)])
def test_the_nearest_matrix_of_a_rank(shape):
    """Its distance is that of the singular values that are left out (Eckart and Young)."""
    torch.manual_seed(0)
    values = [4.0, 2.0, 1.0, 0.5, 0.25][: min(shape)]
    whole = matrix(*shape, values)
    for rank in (1, 2, 8):
        a, b = factors(whole, rank)
        assert (tuple(a.shape), tuple(b.shape)) == ((rank, shape[1]), (shape[0], rank))
        rest = sum(value**2 for value in values[rank:]) ** 0.5
        assert float((whole - b @ a).norm()) == pytest.approx(rest, abs=2e-5)
    assert all(torch.equal(one, other) for one, other in zip(factors(whole, 2), factors(whole, 2), strict=True))


def test_layers_are_cut_and_the_rest_is_named():
    network = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    student = {name: value.clone() for name, value in start.items()}
    student["0.weight"] += matrix(5, 6, [2.0, 1.0])
    student["1.bias"] += 1
    cut = low_rank(network, student, start, 1)
    assert set(cut.tensors) == {"0.lora_A.weight", "0.lora_B.weight"} and cut.lora.targets == ("0",)
    assert cut.errors == {"0": pytest.approx(0.2**0.5, abs=1e-5)} and cut.outside == ("1.bias",)
    assert cut.summary["changed, and not in it"] == "1 parameters, such as 1.bias"
    with pytest.raises(ValueError, match="no linear layer of the student differs"):
        low_rank(network, start, start, 1)


def test_a_higher_rank_is_the_student_itself_in_diffusers_own_hands(run, tmp_path):  # noqa: F811
    config, folder, network = run
    model = config.model.model_copy(update={"export_lora_rank": 6})
    out = export(config.model_copy(update={"model": model}), folder, SHAPE, folder=tmp_path / "out")
    fresh = WanTransformer3DModel.from_pretrained(config.model.path / "transformer")
    fresh.load_lora_adapter(out, prefix="transformer", weight_name=ADAPTER)
    assert (velocity(fresh) - velocity(network)).abs().max() < 1e-4
    card = (out / "README.md").read_text()
    assert "adapter of the difference: rank 6" in card and "is near this student, as the error" in card


def test_a_random_start_is_refused(tmp_path):
    with pytest.raises((ConfigError, ValueError), match=r"export_lora_rank = 4: .*roles\.student\.init = random"):
        run_config(tmp_path, model__export_lora_rank=4, roles__student__init="random")


def test_other_roles_may_begin_at_random(tmp_path):
    config = run_config(tmp_path, model__export_lora_rank=4, roles__fake_score__init="random")
    assert config.model.export_lora_rank == 4


def test_an_expert_whose_stage_has_not_begun_leaves_without_an_adapter(run, tmp_path):  # noqa: F811
    config, _, network = run
    write(tmp_path / "early", [], {"step": 3, "roles": {}}, 0, 1, lambda part: [part])
    model = config.model.model_copy(update={"export_lora_rank": 6})
    assert _cut(config.model_copy(update={"model": model}), "student", tmp_path / "early", network, {}) == (None, {})
