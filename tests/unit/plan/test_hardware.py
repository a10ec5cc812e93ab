import pytest

from ray_distill.plan.hardware import GPUS, parse_cluster


def test_a_cluster_is_read():
    one, two = parse_cluster("8xH100-80GB"), parse_cluster("2x8xH200-141GB")
    assert (one.nodes, one.gpus, one.gpu) == (1, 8, GPUS["H100-80GB"])
    assert (two.nodes, two.gpus, two.gpu.memory) == (2, 16, 141)
    assert [str(one), str(two)] == ["8xH100-80GB", "2x8xH200-141GB"]
    assert str(one.of(12)) == "2x8xH100-80GB" and str(one.of(4)) == "4xH100-80GB"


@pytest.mark.parametrize("name", GPUS)
def test_a_name_says_the_memory(name):
    assert name.endswith(f"-{GPUS[name].memory}GB")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("8", "write .*8xH100-80GB"),
        ("H100-80GB", "write .*8xH100-80GB"),
        ("0xH100-80GB", "write .*8xH100-80GB"),
        ("8xH100", "did you mean 'H100-80GB'"),
        ("8xA100-60GB", "did you mean 'A100-"),
        ("8xTPU", "known: .*H100-80GB"),
        ("2x2x8xH100-80GB", "did you mean 'H100-80GB'"),
    ],
)
def test_a_wrong_cluster_is_named_with_its_remedy(text, remedy):
    with pytest.raises(ValueError, match=f"cluster = '{text}': .*{remedy}"):
        parse_cluster(text)
