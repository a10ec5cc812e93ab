"""RAFT by torchvision's own classes, in place of Farnebäck's flow; skipped where torchvision cannot be imported."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ray_distill.config import ConfigError
from ray_distill.evaluate.metrics import measures, raft
from ray_distill.evaluate.metrics.raft import Raft, check_raft, load_raft

CPU = torch.device("cpu")


class Shift(torch.nn.Module):
    """A network that sees the same flow everywhere, in its own pixels."""

    def __init__(self, flow):
        super().__init__()
        self.flow, self.shapes = flow, []

    def forward(self, first, second, num_flow_updates):
        self.shapes.append(tuple(first.shape))
        assert num_flow_updates == 20 and first.min() >= -1 and first.max() <= 1
        return [torch.tensor(self.flow).reshape(1, 2, 1, 1).expand(len(first), 2, *first.shape[2:])]


def textured(frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_lengths_are_in_short_sides_of_the_picture_whatever_the_network_sees():
    """48 x 96 pixels become 128 x 256: a flow of (8, 6) there is (3, 2.25) here, 3.75 of 48."""
    network = Shift((8.0, 6.0))
    lengths = Raft(network, CPU)(textured(11, 48, 96))
    assert network.shapes == [(8, 3, 128, 256), (2, 3, 128, 256)]
    assert len(lengths) == 10 and all(length.shape == (48, 96) for length in lengths)
    assert np.stack(lengths) == pytest.approx(3.75 / 48)
    network = Shift((8.0, 6.0))
    assert Raft(network, CPU)(textured(2, 250, 300))[0] == pytest.approx(np.hypot(8 * 300 / 304, 6 * 250 / 248) / 250)


def test_motion_is_that_of_the_flow():
    found = measures(textured(9, 48, 96)[None], 8, ["motion", "motion_top", "moving"], Raft(Shift((8.0, 6.0)), CPU))
    assert [found[name].item() for name in ("motion", "motion_top")] == pytest.approx([8 * 3.75 / 48] * 2)
    assert found["moving"].item() == 1.0
    still = measures(textured(9, 48, 96)[None], 8, ["moving"], Raft(Shift((0.5, 0.0)), CPU))
    assert still["moving"].item() == 0.0


def test_a_machine_without_torchvision_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(raft, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="^here: .*pip install torchvision"):
        check_raft(tmp_path, "here")


@pytest.mark.parametrize("name", raft.NAMES)
def test_the_file_s_tensors_choose_the_class(name, tmp_path):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))  # RuntimeError: built for another torch
    torch.manual_seed(0)
    network = raft._make(name)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    check_raft(tmp_path, "here")
    frames = [np.roll(textured(1, 128, 136)[0], 2 * t, axis=1) for t in range(2)]
    pixels = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in frames]
    with torch.no_grad():
        theirs = network.eval()(*pixels, num_flow_updates=20)[-1].norm(dim=1)[0] / 128
    assert np.allclose(load_raft(tmp_path, CPU)(frames)[0], theirs, atol=1e-5)
    save_file({**network.state_dict(), "more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="has not the tensors of raft_large or raft_small"):
        check_raft(tmp_path, "here")
