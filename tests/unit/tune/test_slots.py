import pytest

from ray_distill.config import ConfigError
from ray_distill.config.sections import Train
from ray_distill.tune.slots import BESIDE_CPUS, DRIVER_CPUS, Slots, slots


def train(workers=1, **more):
    return Train(steps=1, workers=workers, global_batch=8 * workers, micro_batch=8, **more)


@pytest.mark.parametrize(
    ("cluster", "settings", "asked", "found"),
    [
        ({"CPU": 2}, train(), 2, Slots(2, 0.6)),  # two trials on two cores
        ({"CPU": 2}, train(), None, Slots(1, 1.0)),
        ({"CPU": 2}, train(2), None, Slots(1, 0.8)),  # not even one fits as it is: it gets less
        ({"CPU": 2}, train(cpus_per_worker=0.5), None, Slots(2, 0.5)),
        ({"CPU": 64}, train(2), None, Slots(26, 1.0)),
        ({"CPU": 64, "GPU": 8}, train(2, use_gpu=True), None, Slots(2, 1.0)),  # each with a GPU for its validations
        ({"CPU": 64, "GPU": 8}, train(8, use_gpu=True), None, Slots(1, 1.0)),
        ({"CPU": 64, "GPU": 8}, train(2, use_gpu=True), 4, Slots(4, 1.0)),
    ],
)
def test_as_many_as_fit(cluster, settings, asked, found):
    assert slots(cluster, settings, asked) == found


@pytest.mark.parametrize("cpus", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("share", [0.1, 0.7, 1.0, 3.0])
def test_what_is_promised_is_there(cpus, workers, share):
    settings = train(workers, cpus_per_worker=share)
    try:
        found = slots({"CPU": cpus}, settings, None)
    except ConfigError:
        assert cpus < workers * 0.05 + DRIVER_CPUS + BESIDE_CPUS
        return
    needed = found.concurrent * (workers * found.cpus_per_worker + DRIVER_CPUS + BESIDE_CPUS)
    assert needed <= cpus + 1e-9 and found.cpus_per_worker <= share


@pytest.mark.parametrize(
    ("cluster", "settings", "asked", "message"),
    [
        ({"CPU": 2}, train(), 9, r"concurrent = 9: of 2 CPUs each worker would get 0"),
        (
            {"CPU": 8},
            train(2, use_gpu=True),
            None,
            r"train\.workers = 2: each worker needs a GPU, and the cluster has 0",
        ),
        (
            {"CPU": 8, "GPU": 4},
            train(2, use_gpu=True),
            3,
            r"concurrent = 3: these trials need 6 GPUs, and the cluster has 4",
        ),
    ],
)
def test_what_cannot_run_is_refused(cluster, settings, asked, message):
    with pytest.raises(ConfigError, match=message):
        slots(cluster, settings, asked)
