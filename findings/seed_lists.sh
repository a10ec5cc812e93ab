#!/usr/bin/env bash
# numpy's generators of a seed, of lists that begin with it, and of larger seeds.
# Versions: numpy 2.4.6.
# Guess: default_rng([seed, epoch, rank]) names a stream of its own for each list, and two seeds have two streams.
# Seen: zeros at the end do not count, up to four numbers: 5, [5], [5, 0] and [5, 0, 0, 0] are one stream, so epoch 0 of rank 0 draws what
# the bare seed draws. Numbers are cut into words of 32 bits: [5, 1] is 5 + 2^32, so two seeds of 64 bits, such as times in nanoseconds,
# can share the streams of other epochs. A fifth number counts, zero or not, and [5, 0, 0, 0, 1] is child 1 of SeedSequence(5).spawn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np


def draws(seed):
    return tuple(np.random.default_rng(seed).integers(1 << 32, size=3).tolist())


def check(one, other, equal):
    print(f"default_rng({one}) and default_rng({other}): {'one stream' if draws(one) == draws(other) else 'two streams'}")
    assert (draws(one) == draws(other)) == equal


print(f"numpy {np.__version__}")
for same in ([5], [5, 0], [5, 0, 0], [5, 0, 0, 0]):
    check(5, same, True)
check(5, [5, 0, 0, 0, 0], False)
check(5, [0, 5], False)
check([5, 1], 5 + 2**32, True)
check([5, 1, 7], [5 + 2**32, 7], True)
child = np.random.SeedSequence(5).spawn(3)[1]
same = np.random.SeedSequence([5, 0, 0, 0, 1]).generate_state(4).tolist() == child.generate_state(4).tolist()
print(f"[5, 0, 0, 0, 1] and child 1 of SeedSequence(5): {'one stream' if same else 'two streams'}")
assert same
PYTHON
