#!/usr/bin/env bash
# A training loop that stands wholly inside one region of torch.autocast, updates and all.
# Versions: torch 2.13.0 (CPU, bfloat16).
# Guess: autocast casts weights at each call, so that a forward after an update sees the updated weights.
# Seen: the region keeps the cast copies until it ends: the loss is the same at every step, while the weights move on, and an average that is
# written into a network that the region has seen is not seen, either. With cache_enabled=False, or one region a step, the loss falls. What
# was cast under no_grad is not kept, so gradients of a later call are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import contextlib

import torch

x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def region(cache=True):
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


def losses(around, within):
    """Losses of five updates, with ``around`` around the loop and ``within`` around each step; and how far the weights went."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8, bias=False)
    start, optimizer, found = layer.weight.detach().clone(), torch.optim.SGD(layer.parameters(), lr=1.0), []
    with around:
        for _ in range(5):
            with within():
                loss = layer(x).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found, (layer.weight.detach() - start).norm().item()


print(f"torch {torch.__version__}")
none = contextlib.nullcontext
for name, (seen, way), still in (
    ("one region around the loop", losses(region(), none), True),
    ("the same without its cache", losses(region(cache=False), none), False),
    ("one region a step", losses(none(), region), False),
):
    print(f"{name}: losses {', '.join(f'{loss:.4f}' for loss in seen)}; the weights went {way:.2f}")
    assert way > 0.1 and (len(set(seen)) == 1) is still and (still or seen[-1] < 0.9 * seen[0]), f"expected still {still}"

layer, average = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
with region():
    before = average(x).detach()
    average.load_state_dict(layer.state_dict())
    unseen = torch.equal(average(x), before)
    with torch.no_grad():
        layer(x)
    layer(x).float().sum().backward()
print(f"weights that are loaded inside the region are unseen: {unseen}; a gradient after no_grad: {layer.weight.grad.norm():.2f}")
assert unseen and layer.weight.grad.norm() > 0, "expected weights that are unseen, and a gradient"
PYTHON
