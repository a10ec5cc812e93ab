"""`check` of runs on another tool's latents: ready where they fit, and each misfit by its name."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_distill.config import ConfigError
from ray_distill.train.driver.check import check, warnings
from tests.parquet_latents import DIGITS, raw, row, wan_model, write
from tests.unit.toys import run_config

LEARNS = {"name": "flow_matching"}
BACKWARD = {"name": "dmd", "backward_simulation": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wan_model(tmp_path_factory.mktemp("wan") / "model")


@pytest.fixture
def config(tmp_path, model):
    def make(*rows, **changes):
        write(tmp_path / "latents/rank_0/worker_0/data_chunk_0.parquet", rows or [row("a", raw(0))])
        data = {"data__manifest": None, "data__datasets": [{"latents": str(tmp_path / "latents")}]}
        size = {"data__frames": 9, "data__height": 32, "data__width": 32}
        rest = {"model__path": str(model), "method": BACKWARD} | changes
        return run_config(tmp_path, **data | size | rest)

    return make


def test_latents_that_fit_are_ready_and_what_they_lack_is_said(config):
    ready = config()
    check(ready)
    (text,) = warnings(ready)
    assert text.startswith("data.datasets.0.latents: these clips have no pixels, so contact_sheet.png, evaluate.metric")


def test_one_good_row_is_enough(config):
    check(config(row("a", raw(0), ""), row("b", raw(0), "a kite")))


def test_a_method_that_reads_prompts_alone_says_so(config):
    idle = config(method={"name": "dmd"})
    check(idle)
    assert "method 'dmd' as set here reads prompts alone" in warnings(idle)[1]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [row("a", raw(0), "")],
            {},
            r"none of its rows can be used; the first: .*data_chunk_0.parquet, row 1: no capt",
        ),
        ([row("a", raw(0).astype(np.float16))], {}, "row 1: its latents are float16, and float32 is read"),
        (
            [row("a", raw(0, (16, 3, 4, 6)))],
            {},
            "its latents are 16x3x4x6, and this run needs C x t x h x w = 16x3x4x4",
        ),
        ([], {"data__stream": True}, "data.stream = true encodes videos beside the training"),
        ([], {"model__path": str(DIGITS)}, "vae/config.json of PatchPCA has no latents_mean"),
        (
            [],
            {"evaluate__metric": str(DIGITS / "metric")},
            "the metric compares with real videos, and data has latents alone; set evaluate.metric=null",
        ),
    ],
)
def test_a_misfit_is_refused_by_name(config, rows, changes, message):
    with pytest.raises(ConfigError, match=message):
        check(config(*rows, **changes))


def test_a_folder_without_parquet_is_refused(config, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        ConfigError, match=r"data.datasets.0.latents = .*empty: nothing in it. It is a folder of FastVid"
    ):
        check(config(data__datasets=[{"latents": str(empty)}]))


def with_text(folder):
    return {"data__datasets": [{"latents": str(folder / "latents"), "text_embeddings": True}]}


def test_embeddings_of_the_width_of_the_text_are_ready(config, tmp_path):
    text = {"text_embedding_shape": [3, 64], "text_embedding_dtype": "float32"}
    ready = config(row("a", raw(0), **text), **with_text(tmp_path))
    check(ready)
    assert "Some text embeddings are compared with the encoder's" in warnings(ready)[0]


def test_embeddings_of_another_width_are_refused_before_anything_starts(config, tmp_path):
    message = "none of its rows can be used; the first: .*row 1: its text embedding is 3x8, and text_encoder gives"
    with pytest.raises(ConfigError, match=message):
        check(config(row("a", raw(0)), **with_text(tmp_path)))


def test_rows_without_embeddings_are_refused_before_anything_starts(config, tmp_path):
    without = config(row("a", raw(0)), **with_text(tmp_path))
    table = pq.read_table(tmp_path / "latents/rank_0/worker_0/data_chunk_0.parquet")
    names = [name for name in table.column_names if not name.startswith("text_embedding")]
    pq.write_table(table.select(names), tmp_path / "latents/rank_0/worker_0/data_chunk_0.parquet")
    with pytest.raises(ConfigError, match="no column text_embedding_bytes, text_embedding_shape, text_embedding_dtype"):
        check(without)
