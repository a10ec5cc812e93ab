"""The frames that each chunk sees, as masks and counts; no network runs."""

from itertools import accumulate, pairwise

import pytest
import torch

from ray_distill.models.wan.causal import looks, rotate, runs, visible_frames
from ray_distill.types import Window

LAYOUTS = [(1,), (1, 3, 3), (3, 3, 3, 3), (1, 1, 1, 1, 1, 1, 1), (2, 3, 3)]


def mask(views, total, tokens=1):
    """The mask [queries, keys] of one call without a past, in 0 and 1."""
    out = torch.zeros(total, total, dtype=torch.int)
    for look in views:
        for start, end in look.keys:
            out[slice(*look.queries), start:end] = 1
    return out.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


def rows(matrix):
    return ["".join(map(str, row)) for row in matrix.tolist()]


def test_the_mask_of_teacher_forcing():
    """Oracle 33: three chunks of one frame, tokens [clean; noisy]."""
    found = rows(mask(looks((1, 1, 1), history=True), 6))
    assert found[:3] == ["100000", "110000", "111000"]
    assert found[3:] == ["000100", "100010", "110001"]


@pytest.mark.parametrize(
    ("chunks", "tokens", "pairs"), [((1,) * 3, 2, 48), ((1,) * 7, 3, 504), ((3,) * 7, 1, 504), ((1, *(3,) * 7), 1, 548)]
)
def test_the_pairs_of_teacher_forcing(chunks, tokens, pairs):
    """Oracle 33: b^2 n (n + 1) of n chunks of b tokens."""
    assert mask(looks(chunks, history=True), 2 * sum(chunks), tokens).sum() == pairs


@pytest.mark.parametrize(
    ("end", "window", "frames"),
    [
        (15, Window(12, 3), [0, 1, 2, *range(6, 15)]),
        (24, Window(21), [*range(3, 24)]),
        (12, Window(12, 3), [*range(12)]),
        (9, Window(12, 3), [*range(9)]),
        (24, None, [*range(24)]),
    ],
)
def test_the_frames_of_a_window(end, window, frames):
    """Oracle 35."""
    assert visible_frames(end, window) == frames


@pytest.mark.parametrize("window", [None, Window(3), Window(4, 1), Window(6, 3)])
@pytest.mark.parametrize("chunks", LAYOUTS)
def test_a_chunk_of_a_cached_call_sees_the_frames_of_the_masked_one(chunks, window):
    """Frame by frame: the past of a cached call is what a masked call shows to the same chunk, in the same order."""
    masked = looks(chunks, window)
    for look, (start, end) in zip(masked, pairwise((0, *accumulate(chunks))), strict=True):
        past = runs([frame for frame in visible_frames(end, window) if frame < start]) if start else ()
        (cached,) = looks((end - start,), window, start, past)
        order = [frame for run in (*past, (start, end)) for frame in range(*run)]
        shown = [order[place] for run in cached.keys for place in range(*run)]
        assert shown == [frame for run in look.keys for frame in range(*run)]
        assert cached.positions == look.positions <= (window.frames if window else sum(chunks))


@pytest.mark.parametrize("window", [None, Window(3), Window(6, 3)])
@pytest.mark.parametrize("chunks", LAYOUTS)
def test_a_noised_chunk_stands_where_its_clean_twin_does(chunks, window):
    """Teacher forcing: the same frames at the same positions, with its own noised frames in the place of the clean."""
    total = sum(chunks)
    both = looks(chunks, window, history=True)
    for clean, noised in zip(both[: len(chunks)], both[len(chunks) :], strict=True):
        places = [place for run in noised.keys for place in range(*run)]
        assert [place - total * (place >= total) for place in places] == [p for run in clean.keys for p in range(*run)]
        own = noised.queries[1] - noised.queries[0]
        assert all(place >= total for place in places[-own:]) and all(place < total for place in places[:-own])


def test_a_cache_that_lacks_a_frame_is_refused():
    with pytest.raises(AssertionError, match=r"the cache lacks frames \[0, 1, 2\]"):
        looks((3,), None, before=6, past=[(3, 6)])


def angles(positions, width=8):
    """cos and sin of each position, [1, tokens, 1, width], every value twice, as diffusers has them."""
    rates = 1e4 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = (positions[:, None] * rates).repeat_interleave(2, 1)[None, :, None]
    return turn.cos(), turn.sin()


def test_rotary_positions_are_relative():
    """Oracle 35: 500 more on all positions changes no product; keys that were turned may be turned on by -7."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 12, 1, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    here = torch.arange(12, dtype=torch.float64)

    def products(shift):
        turned = (rotate(x, *angles(here + shift))[0, :, 0] for x in (query, key))
        a, b = turned
        return a @ b.T

    assert (products(500) - products(0)).abs().max() <= 1e-12
    cos, sin = angles(here - 7)
    back = angles(torch.full_like(here, -7.0))
    again = rotate(rotate(key, *angles(here)), *back)
    assert (again - rotate(key, cos, sin)).abs().max() <= 1e-12
