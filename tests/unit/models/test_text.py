import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, WanPipeline
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from ray_distill.data.encoders import Encoders, cleaning
from ray_distill.data.store.cache import FORMAT
from ray_distill.data.store.parquet import address
from ray_distill.models.conditions import collate
from ray_distill.models.hashing import folder_hash
from ray_distill.models.ltx.text import ltx_text
from ray_distill.models.parts import stored_dtypes
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Field
from ray_distill.models.wan.text import wan_text

FIELDS = {"text": Field((8, 64), padding="zeros")}
TEACHER = Path(__file__).parents[3] / "examples" / "digits_teacher"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = ("left", "right", "up", "down")


@pytest.fixture(scope="module")
def encoder():
    return wan_text(TEACHER, 8)


def padded(encoder, prompts, fields=FIELDS):
    """The states of texts with padding, [B, L, D]."""
    return collate(encoder.encode(prompts), fields)["text"]


def test_tokens_are_counted_without_the_weights(tmp_path):
    shutil.copytree(TEACHER, tmp_path / "teacher")
    (tmp_path / "teacher/text_encoder/model.safetensors").unlink()
    encoder = wan_text(tmp_path / "teacher", 8)
    assert encoder.tokens(["a seven moving left"]) == [5]
    with pytest.raises(OSError, match="model.safetensors"):
        encoder.encode(["a seven"])


def test_equals_wan_pipeline(encoder):
    prompts = [
        "a seven moving left",
        "",
        "A  ZERO &amp; moving\tup ",
        "a nine moving down and then some more words here",
    ]
    pipeline = WanPipeline.from_pretrained(TEACHER, vae=None, local_files_only=True)
    negative = ["", "a one moving up", "", "blurry"]
    with torch.no_grad():
        wanted, unwanted = pipeline.encode_prompt(prompts, negative, max_sequence_length=8)
    torch.testing.assert_close(padded(encoder, prompts), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(padded(encoder, negative), unwanted, atol=1e-6, rtol=0)


def test_equals_ltx_pipeline_where_its_mask_is(tmp_path):
    """Its T5 sees the padding, and its prompts are taken as they are."""
    shutil.copytree(TEACHER / "tokenizer", tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    torch.manual_seed(0)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "text_encoder")
    ours = ltx_text(tmp_path, 8)
    pipeline = LTXPipeline(FlowMatchEulerDiscreteScheduler(), None, ours.model, ours.tokenizer, None)
    prompts = ["a seven moving left", "", "a one  moving &amp; up"]
    with torch.no_grad():
        wanted, mask, *_ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=8)
    cond = collate(ours.encode(prompts), {"text": Field((8, 16), padding="mask")})
    torch.testing.assert_close(cond["text"], wanted * mask[..., None], atol=1e-6, rtol=0)
    assert torch.equal(cond["text_mask"], mask.bool())


def test_behind_the_last_token_is_zero(encoder):
    text = padded(encoder, ["a seven moving left", ""])
    assert text.shape == (2, 8, 64) and text.dtype == torch.float32
    used = text.abs().sum(-1) > 0
    assert used.sum(1).tolist() == [5, 1]  # the words and </s>


def test_a_prompt_does_not_depend_on_its_batch(encoder):
    alone, beside = padded(encoder, ["a two moving up"]), padded(encoder, ["a one moving left", "a two moving up"])
    torch.testing.assert_close(alone[0], beside[1], atol=1e-6, rtol=0)


def test_forty_prompts_are_apart_and_a_linear_probe_reads_them(encoder):
    """The encoder is random; what a denoiser needs from it is that each word can be read off linearly."""
    prompts = list(product(range(10), range(4)))
    text = padded(encoder, [f"a {DIGITS[digit]} moving {DIRECTIONS[direction]}" for digit, direction in prompts])
    flat = text.flatten(1)
    distance = torch.cdist(flat, flat) + torch.eye(40) * 1e9
    assert distance.min() > 0.3 * flat.norm(dim=1).mean()

    pooled = torch.cat([text.sum(1), torch.ones(40, 1)], 1)
    for which, classes in ((0, 10), (1, 4)):
        label = torch.tensor([prompt[which] for prompt in prompts])
        # Held out: combinations of digit and direction that the probe never saw.
        held_out = torch.tensor([(digit + direction) % 4 == 0 for digit, direction in prompts])
        target = torch.nn.functional.one_hot(label, classes).float()
        x = pooled[~held_out]
        probe = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(65), x.T @ target[~held_out])
        assert ((pooled[held_out] @ probe).argmax(1) == label[held_out]).all()


def test_a_folder_without_a_text_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer/"):
        wan_text(tmp_path, 8)


def test_int8_says_nearly_the_same(encoder):
    small = wan_text(TEACHER, 8, "int8")
    a, b = (padded(each, ["a seven moving left", "a two moving up"]) for each in (encoder, small))
    assert 0 < (a - b).norm() / a.norm() < 0.03
    assert torch.equal(a == 0, b == 0)


def test_prompts_are_cleaned_as_wan_was_trained(encoder, monkeypatch):
    """By ftfy, without which diffusers would leave mojibake, curly quotes and full-width signs as they are."""
    pairs = {
        "a child\u2019s kite": "a child's kite",
        "cafÃ©": "café",
        "过曝，静态": "过曝,静态",
        "\ufeffa kite": "a kite",
    }
    asked, tokenizer = [], encoder.tokenizer
    monkeypatch.setattr(encoder, "tokenizer", lambda texts, **how: asked.append(texts) or tokenizer(texts, **how))
    encoder.encode(list(pairs))
    assert asked == [list(pairs.values())]


def test_tokens_are_counted_beyond_what_is_cut(encoder):
    assert encoder.tokens(["", "a one moving up", "a nine moving down and then some more words here"]) == [1, 5, 11]


@pytest.mark.parametrize("name", ["Own", "PreTrainedTokenizerFast"])
def test_no_code_of_a_tokenizers_folder_is_run(tmp_path, name):
    """Whether its class is one that transformers has, too, or not."""
    shutil.copytree(TEACHER, tmp_path / "model", ignore=shutil.ignore_patterns("transformer"))
    path = tmp_path / "model/tokenizer/tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": name, "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps(config))
    (path.parent / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    if name == "Own":
        with pytest.raises(
            ValueError, match=r"tokenizer: its tokenizer is Python code in that folder, which is not run"
        ):
            wan_text(tmp_path / "model", 8)
    else:
        wan_text(tmp_path / "model", 8)
    assert not (tmp_path / "ran").exists()


def test_it_computes_in_what_was_asked_not_in_the_dtype_of_its_files(tmp_path):
    """transformers takes the files' dtype unless it is told another; the rows' address then is another, too."""
    shutil.copytree(TEACHER, tmp_path / "model")
    rounded = wan_text(TEACHER, 8)
    rounded.model.to(torch.bfloat16).save_pretrained(tmp_path / "model/text_encoder")
    rounded.model.float()
    exact, rough = (wan_text(tmp_path / "model", 8, precision) for precision in ("float32", "bfloat16"))
    assert exact.model.dtype == torch.float32 and rough.model.dtype == torch.bfloat16
    prompts = ["a seven moving left"]
    assert torch.equal(padded(exact, prompts), padded(rounded, prompts))
    assert 0 < (padded(rough, prompts) - padded(exact, prompts)).abs().max() < 0.1
    assert padded(rough, prompts).dtype == torch.float32
    pipeline, files = Pipeline("wan", tmp_path / "model"), Pipeline("wan", TEACHER)
    addresses = {Encoders(pipeline, 8, precision).encoder for precision in ("float32", "bfloat16", "int8")}
    assert len(addresses) == 3 and stored_dtypes(TEACHER / "text_encoder", "model", "") == {"F32"}
    assert stored_dtypes(tmp_path / "model/text_encoder", "model", "") == {"BF16"}
    assert Encoders(files, 8).encoder == address(FORMAT, hashes(TEACHER), 8, cleaning())  # as ever


def hashes(folder):
    return [folder_hash(folder / part) for part in ("text_encoder", "tokenizer")]


def test_another_familys_text_encoder_is_refused():
    with pytest.raises(ValueError, match="its text_encoder is a umt5, and this family reads text by a t5"):
        ltx_text(TEACHER, 8)
