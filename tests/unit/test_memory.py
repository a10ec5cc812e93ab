"""What is left of a container's memory."""

import pytest

from ray_distill import memory


def test_a_containers_limit_bounds_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    free, total = memory.available()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == (pytest.approx(free, rel=0.5), total)
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory.available() == (1 << 20, 1 << 20)
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\nfile 600000\ninactive_file 350000\nactive_file 250000\n")
    assert memory.available() == ((1 << 20) - 100_000, 1 << 20)
