"""Behaviour of the libraries below us that rows of docs/stack.md state and no test of ours leans on: `make
upgrade-check` runs these among newer versions. Where one fails, its row and what leans on it need another look."""

import inspect
import io

import av
import diffusers
import numpy as np
import optuna
import peft
import pyarrow as pa
import pyarrow.dataset
import pyarrow.json
import pytest
import torch
from pyarrow import parquet
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ray_distill.config.sections import Model

RED = (200, 30, 30)
BT709 = 1


@pytest.mark.parametrize("length", [512, 226])
def test_wans_text_is_padded_to_other_lengths_by_the_call_and_by_encode_prompt(length):
    """Ours is the call's; text that is padded to another length gives another velocity (findings/prompt_length.sh)."""
    call = diffusers.WanPipeline.__call__ if length == 512 else diffusers.WanPipeline.encode_prompt
    assert inspect.signature(call).parameters["max_sequence_length"].default == length
    assert Model.model_fields["max_sequence_length"].default == 512


def test_unipc_gives_each_timestep_that_is_not_its_own_the_last_level():
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert scheduler.add_noise(one, zero, torch.tensor([500.0])).max() < -2  # (1 - sigma) x, by sigmas of another kind
    scheduler.set_timesteps(10)
    own, last = scheduler.timesteps[5].item(), scheduler.timesteps[-1].item()
    levels = [scheduler.add_noise(zero, one, torch.tensor([t]))[0, 0].item() for t in (own, 900, 500, 1)]
    assert levels == pytest.approx([own / 1000, *3 * [last / 1000]], abs=2e-3)


def test_linear_mixes_the_factors_of_adapters_and_cat_the_adapters():
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
    network = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), config, adapter_name="a")
    network.add_adapter("b", config)
    for kind in ("linear", "cat"):
        network.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind)
    layer = network.base_model.model[0]
    mean = (layer.get_delta_weight("a") + layer.get_delta_weight("b")) / 2
    assert (layer.get_delta_weight("linear") - mean).norm() > 0.8 * mean.norm()
    torch.testing.assert_close(layer.get_delta_weight("cat"), mean)


def adapter(dtype=torch.float32):
    """A layer with an adapter, and the network that has it alone."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
    network = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)).to(dtype), config)
    return network.base_model.model[0], network


def test_merging_an_adapter_without_elements_loses_it_without_an_error():
    """ZeRO-3 leaves such tensors between two calls (findings/peft_zero3.sh)."""
    layer, network = adapter()
    for weight in (layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight):
        weight.data = torch.empty(0)
    network.merge_adapter()
    assert layer.merged and layer.get_delta_weight("default").shape == ()


def test_merging_and_unmerging_in_turn_lets_bf16_weights_drift():
    layer, network = adapter(torch.bfloat16)
    start, errors = layer.weight.clone(), []
    for _ in range(100):
        network.merge_adapter()
        network.unmerge_adapter()
        errors.append((layer.weight - start).float().norm().item())
    assert errors[0] > 0 and errors[-1] > 10 * errors[0]


@pytest.mark.parametrize(("cache", "seen"), [(True, 1.0), (False, 2.0)])
def test_autocast_keeps_cast_weights_until_its_region_ends(cache, seen):
    layer, x = torch.nn.Linear(8, 8, bias=False), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
        before = layer(x).float()
        layer.weight.data.mul_(2)
        assert torch.equal(layer(x).float(), seen * before)


def test_adafactor_hardly_moves_a_weight_of_zeros():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = torch.optim.Adafactor([weight], lr=0.01)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    assert weight.abs().max().item() == pytest.approx(1e-5, rel=0.01)  # lr times 0.001


def test_a_bf16_row_that_is_used_often_loses_gradient_by_how_it_is_looked_up():
    uses = torch.zeros(5000, dtype=torch.long)
    row = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    gradients = [
        torch.autograd.grad(look(row).float().sum(), row)[0].item()
        for look in (lambda w: functional.embedding(uses, w), lambda w: w[uses], lambda w: w.index_select(0, uses))
    ]
    assert gradients == [256, 256, 4992]


def test_casts_to_float8_saturate_or_overflow_by_format():
    large = torch.tensor([60_000.0, 61_440.0, float("inf")])
    assert large.to(torch.float8_e4m3fn).float().tolist() == [448, 448, 448]
    assert large.to(torch.float8_e5m2).float().tolist() == [57_344, float("inf"), float("inf")]
    assert large.to(torch.float8_e4m3fnuz).float().isnan().all()


def test_attention_over_masked_keys_alone_depends_on_how_the_mask_is_written():
    q, k, v = torch.randn(3, 1, 1, 4, 8).unbind()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    least = torch.full((4, 4), torch.finfo(torch.float32).min)
    assert torch.equal(functional.scaled_dot_product_attention(q, k, v, mask), torch.zeros_like(v))
    mean = functional.scaled_dot_product_attention(q, k, v, least)
    torch.testing.assert_close(mean, v.mean(2, keepdim=True).expand_as(v))


def test_noise_depends_on_strides_and_on_what_is_drawn_with_it():
    def draw(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0))

    assert torch.equal(draw(32)[:16], draw(16)) and not torch.equal(draw(24)[:12], draw(12))
    square = torch.empty(16, 16)
    torch.manual_seed(0)
    straight = torch.randn_like(square)
    torch.manual_seed(0)
    assert not torch.equal(torch.randn_like(square.T), straight)


def test_a_streams_tag_does_not_convert_its_frames():
    seen = []
    for tag in (None, BT709):
        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            if tag:
                stream.codec_context.colorspace = tag
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), RED, np.uint8), "rgb24")))
            container.mux(stream.encode(None))
        file.seek(0)
        with av.open(file) as container:
            seen.append(next(container.decode(video=0)).to_ndarray(format="rgb24")[32, 32].astype(int))
    assert np.abs(seen[0] - RED).max() <= 3 and np.abs(seen[1] - (214, 45, 27)).max() <= 3


def test_frames_without_a_matrix_are_read_by_bt601_whatever_their_size():
    frame = av.VideoFrame(1280, 720, "yuv420p")
    for plane, value in zip(frame.planes, (63, 102, 240), strict=True):  # a red of 255 by BT.709
        plane.update(bytes([value]) * plane.buffer_size)
    assert abs(int(frame.to_ndarray(format="rgb24")[0, 0, 0]) - 232) <= 2


@pytest.mark.parametrize(("caption", "kind"), [("2024-05-01", pa.timestamp("s")), ("a dog", pa.string())])
def test_arrow_takes_json_text_that_looks_like_dates_for_dates(caption, kind):
    rows = io.BytesIO(f'{{"caption": "2024-05-01 10:00:00"}}\n{{"caption": "{caption}"}}\n'.encode())
    assert pyarrow.json.read_json(rows)["caption"].type == kind


def test_the_first_file_of_a_folder_decides_the_columns_of_all(tmp_path):
    parquet.write_table(pa.table({"frames": [49]}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"frames": [81.0], "caption": ["a dog"]}), tmp_path / "1.parquet")
    assert pyarrow.dataset.dataset(tmp_path).to_table().to_pydict() == {"frames": [49, 81]}


def test_a_study_of_several_objectives_is_searched_by_tpe():
    assert isinstance(optuna.create_study(directions=["minimize", "maximize"]).sampler, optuna.samplers.TPESampler)


@pytest.mark.parametrize(("device", "share"), [("cpu", 0), ("meta", 1)])
def test_the_flop_counter_misses_attention_on_a_cpu(device, share):
    """Plans count it by a table of their own (findings/flop_attention.sh)."""
    q, k, v = (torch.zeros(1, 2, 64, 16, device=device) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        functional.scaled_dot_product_attention(q, k, v)
    assert counter.get_total_flops() == share * 4 * 2 * 64 * 64 * 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_largest_uniform_draws_in_half_precision_become_zero(dtype):
    """A noise level drawn so would be 0 in place of 1 (findings/uniform_wrap.sh)."""
    exact, half = (
        torch.rand(1 << 16, dtype=d, generator=torch.Generator().manual_seed(0)) for d in (torch.float, dtype)
    )
    wrong = half != exact.to(dtype)
    assert wrong.any() and (half[wrong] == 0).all() and exact[wrong].min() > 0.997
