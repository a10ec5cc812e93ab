"""The shipped configurations, verdicts, and the verb."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ray_distill.cli import main
from ray_distill.config import load_config
from ray_distill.models.loading import published_configs
from ray_distill.models.wan.family import FAMILY
from ray_distill.plan import plan
from ray_distill.plan.changes import changes, cheapest
from ray_distill.plan.estimate import estimate
from ray_distill.plan.memory import state
from ray_distill.plan.network import parameters
from ray_distill.plan.report import digits
from tests.unit.simpletuner import examples

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples/digits_teacher/transformer/diffusion_pytorch_model.safetensors"
SMALL, LARGE, QUICK = (f"configs/{name}.yaml" for name in ("wan2.1_1.3b/dmd", "wan2.1_14b/dmd", "quickstart"))
LCM = "configs/lcm_quickstart.yaml"


def config(path, *overrides):
    return load_config(ROOT / path, overrides, {}).config


@cache
def found(path, *overrides):
    return estimate(config(path, *overrides))


@pytest.mark.parametrize(
    ("path", "every", "latent"),
    [
        (SMALL, 1_418_996_800, (16, 21, 60, 104)),
        (LARGE, 14_288_491_584, (16, 21, 60, 104)),
        (QUICK, sum(t.numel() for t in load_file(DIGITS).values()), (16, 3, 6, 6)),
    ],
)
def test_the_shipped_configurations_are_known(path, every, latent):
    plan = found(path)
    assert {role: sum(p.every) for role, p in plan.parameters.items()} == dict.fromkeys(
        ("student", "fake_score", "teacher"), every
    )
    assert {role: sum(p.trainable) > 0 for role, p in plan.parameters.items()} == {
        "student": True,
        "fake_score": True,
        "teacher": False,
    }
    assert plan.latent == latent


def test_the_state_is_what_the_configuration_files_say():
    """GB of 1e9 bytes a GPU, worked out by hand in the comments of configs/wan2.1_*/dmd.yaml."""

    def sums(plan):
        return {
            role: round((s.weights + s.gradients + s.masters + s.moments + s.ema) / 1e9, 1)
            for role, s in plan.states.items()
        }

    assert sums(found(SMALL)) == {"student": 6.4, "fake_score": 5.7, "teacher": 0.4}
    assert sums(found(LARGE)) == {"student": 4.9, "fake_score": 4.0, "teacher": 0.4}
    assert found(SMALL).checkpoint == 28 * 1_418_996_800


def test_activations_of_a_checkpointed_wan():
    """30 blocks keep their inputs, 32,760 tokens x 1536 x 2 bytes (3.0 GB); above it comes one block's backward."""
    peak = found(SMALL).peak
    between = 30 * 32_760 * 1536 * 2
    assert "student" in peak.name and between < peak.term("activations") < 3.5 * between


def test_flops_of_a_forward():
    """2 x parameters of the blocks x tokens, and 4 x tokens^2 x width a block of attention, within 5 %."""
    tokens, width, layers = 32_760, 1536, 30
    blocks = layers * (6 * width**2 + 2 * width * 8960)  # q, k, v, out; q and out of the text; the feed-forward
    attention = layers * 4 * tokens * (tokens + 512) * width
    forward = 2 * blocks * tokens + attention
    # A cycle of 5 steps with 8 micro-batches a step: one evaluation a sample of guidance 1 x 2 by the teacher.
    assert found(SMALL).flops["teacher"] == pytest.approx(2 * forward * 8 / 5, rel=0.05)


def test_flops_and_bytes_by_the_role_that_is_updated():
    """The teacher computes in the student's updates alone; of a checkpoint the student has 16 bytes a parameter with
    its average, the fake score 12."""
    plan = found(SMALL)
    assert sum(plan.update_flops.values()) == pytest.approx(sum(plan.flops.values()))
    assert plan.update_flops["teacher"] == 0 and plan.update_flops["student"] > plan.flops["teacher"] > 0
    assert plan.update_peaks.keys() == {"student", "fake_score"}
    assert plan.peak.total == max(plan.update_peaks.values()) and min(plan.update_peaks.values()) > 0
    assert plan.checkpoints == {"student": 16 * 1_418_996_800, "fake_score": 12 * 1_418_996_800, "teacher": 0}


GAN = ("method.name=dmd_gan", "roles.discriminator.optimizer={learning_rate: 1e-5}")


def test_heads_are_planned_as_a_role():
    """On 2 of 3 blocks: two linear layers, the norm and the logit each. The teacher's pass for the student's gradient
    makes no gradients of weights: forward, forward again and backward cost three forwards."""
    start = (*GAN, "roles.teacher.gradient_checkpointing=true")
    plain, heads, width = found(QUICK), found(QUICK, *start), 3 * 32
    each, sizes = 2 * (width**2 + width) + 2 * width + width + 1, heads.parameters["discriminator"]
    assert sum(sizes.trainable) == sum(sizes.every) == 2 * each
    assert heads.states["discriminator"].moments == 2 * 4 * each
    assert heads.checkpoint == plain.checkpoint + 12 * 2 * each
    one = plain.flops["teacher"] / 2  # guidance made them two
    assert heads.flops["teacher"] - plain.flops["teacher"] == pytest.approx((3 + 2 * 5) * one, rel=0.1)
    assert "not counted: the calls of discriminator, heads on teacher" in plan(config(QUICK, *start), {})[0]


def test_checkpointing_of_what_heads_look_at_is_a_change():
    start, teacher = [*GAN, *BFLOAT16, *CHECKPOINTING], "roles.teacher.gradient_checkpointing=true"
    limit = found(QUICK, *start, teacher).peak.total
    first = cheapest(config(QUICK, *start), lambda plan: plan.peak.total <= limit)
    assert first is not None and first.keys == (teacher,)


def test_it_fits_where_it_should():
    text, fits = plan(config(SMALL), {"cluster": "8xH100-80GB"})
    assert fits and text.startswith("fits: ")
    text, fits = plan(config(LARGE), {"cluster": "8x8xH100-80GB"})
    assert fits
    assert max(map(len, text.splitlines())) <= 100


def test_the_overflow_and_the_cheapest_change():
    text, fits = plan(config(LARGE), {"cluster": "8xH100-80GB"})
    assert not fits and text.startswith("does not fit: ")
    assert "roles.student.offload_optimizer=true" in text and "train.workers is 64" in text
    text, fits = plan(config(LARGE, *OFFLOAD), {"cluster": "8xA100-40GB"})
    assert not fits and "train.sequence_parallel=2" in text  # before more workers


BFLOAT16 = [f"roles.{role}.dtype=bfloat16" for role in ("student", "fake_score", "teacher")]
CHECKPOINTING = [f"roles.{role}.gradient_checkpointing=true" for role in ("student", "fake_score")]
SHARDS = [f"roles.{role}.zero=3" for role in ("student", "fake_score")]
OFFLOAD = [f"roles.{role}.offload_optimizer=true" for role in ("student", "fake_score")]


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ([*BFLOAT16, "train.micro_batch=2"], CHECKPOINTING),
        ([*BFLOAT16, *CHECKPOINTING], ["train.micro_batch=2"]),
        (["train.micro_batch=2"], BFLOAT16),
        ([*BFLOAT16, *CHECKPOINTING, "train.micro_batch=1"], OFFLOAD),
        ([*BFLOAT16, *CHECKPOINTING, *OFFLOAD, *SHARDS, "train.micro_batch=1"], ["train.workers=8"]),
    ],
)
def test_the_first_change_that_fits_is_named(start, change):
    limit = found(QUICK, *start, *change).peak.total
    assert found(QUICK, *start).peak.total > limit
    first = cheapest(config(QUICK, *start), lambda plan: plan.peak.total <= limit)
    assert first is not None and sorted(first.keys) == sorted(change)
    assert first.estimate.peak.total == limit


def test_changes_add_up_where_one_is_not_enough():
    limit, start = found(QUICK, *CHECKPOINTING, "train.micro_batch=2").peak.total, config(QUICK)
    both = cheapest(start, lambda plan: plan.peak.total <= limit)
    assert both is not None and set(both.keys) == {"train.micro_batch=2", *CHECKPOINTING}
    assert cheapest(start, lambda plan: False) is None


def test_a_sum_of_changes_has_none_that_it_fits_without():
    """The average stays where the optimizer's place decides, although its change comes first."""

    def fits(plan):
        student = plan.config.role("student")
        return student.zero == 3 and student.offload_optimizer

    change = cheapest(config(QUICK), fits)
    assert change is not None and sorted(change.keys) == sorted([*SHARDS, "roles.teacher.zero=3", *OFFLOAD])
    assert change.estimate.config.role("student").ema_decay is not None


def test_whole_roles_are_offered_only_what_they_can_have():
    """In bf16, or offloaded, only shards of them train."""
    whole = [f"roles.{role}.zero=0" for role in ("student", "fake_score", "teacher")]
    offered = [key for keys, _ in changes(config(QUICK, *whole)) for key in keys]
    assert "roles.student.zero=3" in offered and "roles.teacher.dtype=bfloat16" in offered
    assert not [key for key in offered if "offload" in key or key == "roles.student.dtype=bfloat16"]
    assert cheapest(config(QUICK, *whole), lambda plan: False) is None


def test_a_run_without_its_average_has_no_setting_of_one():
    start = config(QUICK, "roles.student.ema_interval=5", "roles.student.ema_warmup=true")
    (keys,) = (keys for keys, _ in changes(start) if "ema_decay" in keys[0])
    assert keys == tuple(f"roles.student.ema_{end}" for end in ("decay=null", "interval=1", "warmup=false"))
    own = ("roles.student.ema_interval=5", "roles.student.ema_warmup=true", *keys)
    assert config(QUICK, *own).role("student").ema_decay is None


def test_a_base_in_fp32_stays_where_whole_adapters_stand_on_it():
    roles = [f"roles.{role}.{each}" for role in ("student", "fake_score") for each in ("zero=0", "lora={rank: 2}")]
    start = config(QUICK, "model.shared_base=true", *roles)
    assert not [keys for keys, _ in changes(start) if "dtype=bfloat16" in keys[0]]


def test_an_average_role_is_planned_and_changed_with_its_source():
    lcm = config(LCM)
    plan = estimate(lcm)
    student, average = plan.states["student"], plan.states["student_ema"]
    assert average.ema == student.masters and average.weights == student.weights
    assert plan.cycle.expected("student_ema", False) == 1
    without = estimate(config(LCM, "method.target_decay=0"))
    assert plan.checkpoint - without.checkpoint == 4 * sum(plan.parameters["student"].trainable)
    first = cheapest(lcm, lambda found: found.config.role("student").zero == 3)
    assert first is not None and "roles.student.zero=3" in first.keys
    assert first.estimate.states["student_ema"].weights < average.weights


def test_a_detail_expert_is_planned_without_the_expert_that_it_only_samples_with():
    plan = estimate(config("configs/dcm_fine_quickstart.yaml", "roles.student.path=examples/digits_teacher"))
    assert plan.parameters.keys() == {"student", "teacher", "discriminator", "student_ema"}
    whole = sum(plan.parameters["teacher"].every)
    assert 0 < sum(plan.parameters["student"].trainable) < whole / 2
    calls = {role: (plan.cycle.expected(role, True), plan.cycle.expected(role, False)) for role in plan.parameters}
    assert calls["student"][0] == 1 and calls["teacher"][0] == 1  # one gradient passes the teacher


def test_seconds_and_money_follow_the_assumptions():
    texts = [plan(config(SMALL), {"cluster": "8xH100-80GB", "mfu": mfu, "price": "2"})[0] for mfu in ("0.4", "0.2")]
    flops = sum(found(SMALL).flops.values())
    for text, mfu in zip(texts, (0.4, 0.2), strict=True):
        seconds = flops / (mfu * 989e12)
        money = seconds * 4000 / 3600 * 8 * 2
        assert f"about {digits(seconds, 2)} s a step" in text and f"{digits(money, 2)} USD" in text
        assert f"mfu={mfu}" in text and "price=2 USD per GPU and hour\n" in text and "not measured" in text


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,200"), (0.0123, "0.012"), (46.2, "46"), (9.96, "10")])
def test_digits(value, text):
    assert digits(value, 2) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mfu": "0.5"}, "mfu = 0.5: it needs a cluster"),
        ({"cluster": "8xH100-80GB", "mfu": "40"}, "mfu = '40': give a share"),
        ({"cluster": "8xH100-80GB", "price": "free"}, "price = 'free': give USD"),
        ({"cluster": "8xH100-80GB", "price": "nan"}, "price = 'nan': give USD"),
        ({"cluster": "8xH100-80GB", "price": "inf"}, "price = 'inf': give USD"),
        ({"cluster": "3xH100-80GB"}, "cluster = 3xH100-80GB: train.global_batch = 64 .* 3 GPUs .* name 8 GPUs"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        plan(config(SMALL), given)


def test_an_unknown_folder_is_named():
    with pytest.raises(ValueError, match="model.path = .*/nowhere: no such folder.*Wan2.1-T2V-14B-Diffusers"):
        plan(config(SMALL, "model.path=nowhere"), {})


def test_clips_that_the_published_vae_does_not_take():
    with pytest.raises(ValueError, match="frames=80: the Wan VAE takes 4k"):
        plan(config(SMALL, "data.frames=80"), {})


def test_clips_that_are_no_whole_chunks():
    chunks = r"the clip has 20 latent frames, which are not k x 3; use 18 or 21 \(data.frames = 69 or 81\)"
    with pytest.raises(ValueError, match=chunks):
        plan(config("configs/wan2.1_1.3b/self_forcing.yaml", "data.frames=77"), {})


def test_the_verb(capsys):
    assert main(["plan", QUICK, "cluster=2xRTX4090-24GB"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fits: ") and "fake_score" in out
    assert main(["plan", QUICK, "train.micro_batch=4"]) == 0
    assert "Name a cluster" in capsys.readouterr().out
    assert main(["plan", LARGE, "cluster=8xH100-80GB"]) == 1
    assert capsys.readouterr().out.startswith("does not fit: ")
    assert main(["plan", QUICK, "cluster=8"]) == 2
    assert "cluster = '8'" in capsys.readouterr().err
    assert main(["check", QUICK, "cluster=8xH100-80GB"]) == 2
    assert "cluster: unknown key" in capsys.readouterr().err


SHARED = "configs/wan2.1_14b/dmd_shared_base.yaml"
BF16_GRADIENTS = [f"roles.{role}.gradient_dtype=bfloat16" for role in ("student", "fake_score")]
ZERO3 = ["model.shared_base=false", *SHARDS]
WHOLE = ["roles.teacher.zero=0"]
# As in docs/plan.md.
MODES = {
    "separate, all weights": (LARGE, []),
    "without EMA, bf16 gradients": (LARGE, ["roles.student.ema_decay=null", *BF16_GRADIENTS]),
    "optimizer offloaded": (LARGE, OFFLOAD),
    "separate, LoRA": (SHARED, ZERO3),
    "shared base, ZeRO-3": (SHARED, []),
    "shared base, whole": (SHARED, WHOLE),
    "shared base, whole, int8": (SHARED, [*WHOLE, "roles.teacher.base_precision=int8"]),
}
CLUSTERS = ("8xH100-80GB", "8xH200-141GB", "2x8xH100-80GB")


def test_the_table_of_what_holds_14b():
    documented = (ROOT / "docs/plan.md").read_text().splitlines()
    for mode, (path, changed) in MODES.items():
        cells = []
        for cluster in CLUSTERS:
            text, fits = plan(config(path, *changed), {"cluster": cluster})
            cells.append(re.search(r"([0-9.]+) of", text).group(1) + ("" if fits else ", no"))
        assert f"| {mode} | {' | '.join(cells)} |" in documented


PHASED, PHASED_LORA, PHASED_IMAGE = (
    f"configs/wan2.2_a14b/{name}.yaml" for name in ("dmd_phased", "dmd_phased_lora", "dmd_phased_i2v")
)
EXPERTS = ("student", "fake_score", "student_low", "fake_score_low")
TWO_EXPERTS = {
    "two experts, all weights": (PHASED, []),
    "two experts, optimizers offloaded": (PHASED, [f"roles.{role}.offload_optimizer=true" for role in EXPERTS]),
    "two experts in turns, all weights": (PHASED, ["method.schedule=alternating"]),
    "two experts on two shared bases": (PHASED_LORA, []),
    "two experts from images, on two shared bases": (PHASED_IMAGE, []),
}


def test_the_table_of_what_holds_two_experts():
    documented = (ROOT / "docs/plan.md").read_text().splitlines()
    for mode, (path, changed) in TWO_EXPERTS.items():
        cells = []
        for cluster in CLUSTERS[:2]:
            text, fits = plan(config(path, *changed), {"cluster": cluster})
            cells.append(re.search(r"([0-9.]+) of", text).group(1) + ("" if fits else ", no"))
        assert f"| {mode} | {' | '.join(cells)} |" in documented, (mode, cells)


def test_only_the_expert_whose_turn_it_is_has_an_optimizer():
    plan = found(PHASED)
    assert "student_low" in plan.peak.name and plan.states.keys() == plan.peak.rows.keys()
    assert plan.states.keys() == {"student", "student_low", "fake_score_low", "teacher_low"}
    assert plan.states["student"].moments == plan.states["student"].masters == 0 < plan.states["student_low"].moments
    whole = 14_288_491_584
    assert plan.checkpoint == 4 * whole * (2 + 4 + 3)
    calls = {role: plan.cycle.expected(role, True) for role in plan.parameters}
    assert (calls["student"], calls["student_low"], calls["fake_score"], calls["teacher"]) == (400, 400, 2000, 0)


@pytest.mark.parametrize(("ema", "most"), [(None, 34), (0.98, 38)])
def test_bytes_a_parameter_of_separate_networks_at_14b(ema, most):
    """bf16 weights, teacher and gradients; masters, moments and average in fp32; activations are not counted."""
    changed = config(LARGE, *BF16_GRADIENTS, f"roles.student.ema_decay={'null' if ema is None else ema}")
    elements, ranks = 14_288_491_584, changed.train.workers
    total = 0
    for role in changed.held_roles:
        held = state(changed.role(role), parameters(changed, role), ranks)
        total += held.weights + held.gradients + held.masters + held.moments + held.ema
    assert most - 0.01 < total * ranks / elements < most + 0.01


def test_a_shared_base_is_planned_as_one_network_and_adapters():
    base, ranks = 14_288_491_584, 8
    shared = config(SHARED)
    sizes = {role: parameters(shared, role) for role in shared.held_roles}
    assert sum(sizes["teacher"].every) == base and sizes["teacher"].trainable == ()
    adapters = sum(sizes["student"].every)
    assert sizes["student"] == sizes["fake_score"] and adapters == sum(sizes["student"].trainable) < 0.05 * base
    states = {role: state(shared.role(role), sizes[role], ranks) for role in sizes}
    assert states["teacher"].weights == pytest.approx(2 * base / ranks, rel=1e-3)
    assert states["student"].weights == 2 * adapters
    assert states["student"].moments == pytest.approx(8 * adapters / ranks, rel=1e-3)
    whole = config(SHARED, *WHOLE, "roles.teacher.base_precision=int8")
    int8 = state(whole.role("teacher"), parameters(whole, "teacher"), ranks)
    assert 1.0 * base < int8.weights < 1.1 * base


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dmd_config.json", "dcm_config.json"])
@pytest.mark.parametrize(("size", "elements"), [("1.3B", 1_418_996_800), ("14B", 14_288_491_584)])
def test_the_seeds_are_planned_at_both_sizes(name, size, elements, tmp_path, monkeypatch):
    """SimpleTuner's two files as they stand, over the published architecture of each size."""
    folder = examples.home(tmp_path)
    described = published_configs(FAMILY)[f"Wan2.1-T2V-{size}-Diffusers"]["transformer"]
    (folder / examples.MODEL / "transformer/config.json").write_text(json.dumps(described))
    monkeypatch.chdir(folder)
    loaded = examples.load(folder, examples.seed(name))
    found = estimate((loaded.before or loaded).config)
    assert sum(found.parameters["teacher"].every) >= elements and found.peak.total > 2 * elements / 8


@pytest.mark.parametrize("path", ["configs/ltx/dmd.yaml", "configs/cogvideox/dmd.yaml"])
def test_a_sentence_of_one_configuration(path):
    page = " ".join((ROOT / "docs/plan.md").read_text().split())
    sentence = page[page.index(f"`ray-distill plan {path} ") :][:300]
    for cluster, memory in (("8xH100-80GB", "80 GiB"), ("8xH200-141GB", "141")):
        text, fits = plan(config(path), {"cluster": cluster})
        assert fits and f"{text.split()[1]} of {memory}" in sentence
