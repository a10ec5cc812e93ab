"""The committed teacher of digits with sound makes picture and sound agree; its table sees where they do not."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "docs"))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import digits_with_sound as toy
import digits_with_sound_teacher
import sound_toy
from digits_with_sound_teacher import METHOD, PROMPTS, batch_of, captions

from ray_distill.models.ltx2.network import LTX2Denoiser

FOLDER = Path(__file__).parents[3] / "examples/digits_with_sound_teacher"


def test_the_teacher_s_sound_names_the_direction_of_its_picture(monkeypatch):
    monkeypatch.setattr(sound_toy, "COUNT", 64)
    sampler = replace(METHOD, sampling_steps=12).sampler()
    codecs = toy.Codecs.load(FOLDER)
    clips = sound_toy.draw(LTX2Denoiser(sound_toy.load(FOLDER)), sampler, captions(FOLDER), 0, codecs)
    seen = toy.seen_direction(clips.pixels)
    assert (seen == toy.heard_direction(clips.mel)).float().mean() > 0.85
    assert seen.bincount(minlength=4).min() >= 4  # no direction is lost


def test_real_clips_are_near_and_swapped_sound_disagrees():
    (real, _), (other, _) = toy.make(320, 1), toy.make(320, 2)
    row = sound_toy.measure(other, real)
    assert row.agreement == row.digit == 1 and row.rarest == 0.25
    swapped = sound_toy.measure(replace(other, mel=other.mel.roll(1, 0)), real)
    assert swapped.agreement < 0.4 and swapped.sound == pytest.approx(row.sound)  # distances alone do not see it


def test_the_planted_fault_scales_sound_by_the_picture_s_error():
    batch = batch_of(captions(FOLDER), torch.arange(4), 0)
    x = torch.randn(4, *batch.latent_shape, generator=torch.Generator().manual_seed(0))
    x[:, :, batch.modalities["audio"]] *= 0.01
    own, common = (
        sound_toy.STUDENTS[name].direction(x, x * 0, x * 2, torch.full((4,), 0.5), batch)[0]
        for name in ("dmd_4", "common_normaliser")
    )
    where = batch.modalities["audio"]
    assert own[:, :, where].abs().mean() > 20 * common[:, :, where].abs().mean()


def test_the_documented_commands_run(monkeypatch, tmp_path, capsys):
    """Clips to see and hear; a teacher, in two runs; its student, which a second run reads."""
    monkeypatch.setattr(sound_toy, "COUNT", 40)
    monkeypatch.setattr(digits_with_sound_teacher, "CLIPS", 40)
    teacher, work = str(tmp_path / "teacher"), str(tmp_path / "work")

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        module.main()

    run(toy, str(tmp_path / "clips"))
    assert len([*(tmp_path / "clips").glob("*.gif")]) == len([*(tmp_path / "clips").glob("*.wav")]) == 8
    for steps in ("1", "2"):
        run(digits_with_sound_teacher, teacher, work, "--steps", steps)
    capsys.readouterr()
    for _ in range(2):
        run(sound_toy, teacher, work, "--steps", "5", "--only", "dmd_4")
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 12 and table[:6] == table[6:] and table[4].startswith("| `dmd_4`, one process | 4 |")
    assert {row.count("|") for row in table} == {11}


def test_the_prompts_of_its_configuration_are_the_teacher_s():
    assert tuple((FOLDER.parent / "digits_with_sound_prompts.txt").read_text().splitlines()) == PROMPTS
