import pytest

from ray_distill.models.lora import LoRA, add_lora
from ray_distill.plan.network import parameters
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config


@pytest.mark.parametrize(
    "lora",
    [
        LoRA(rank=3),
        LoRA(rank=2, targets=("attn1.to_q", "ffn.net.2")),
        LoRA(rank=2, whole=("proj_out", "condition_embedder")),
    ],
)
def test_adapters_are_counted_as_peft_makes_them(tmp_path, lora):
    network = tiny_wan(0)
    network.save_pretrained(tmp_path / "model" / "transformer")
    config = run_config(tmp_path, roles__student__lora=lora.model_dump())
    found = parameters(config, "student")
    add_lora(network, lora, seed=0)
    trained = sorted(p.numel() for p in network.parameters() if p.requires_grad)
    assert sorted(found.trainable) == trained
    assert sum(found.every) == sum(p.numel() for p in network.parameters())
    assert parameters(config, "teacher").trainable == ()
    optimizer = {"learning_rate": 1e-4}
    roles = {"student": {"lora": lora.model_dump(), "optimizer": optimizer}}
    average = parameters(run_config(tmp_path, method={"name": "lcm"}, roles=roles), "student_ema")
    assert (sorted(average.averaged), average.trainable) == (trained, ())
