"""A clip's frames are those of FFmpeg's decode of the whole file from its start, whatever the container and codec."""

import os
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from benchmarks import decoders
from benchmarks.decoders import Kind
from ray_distill.data.read import readers, video
from ray_distill.data.read.clip import BadClip, Cut, Times
from ray_distill.data.read.video import decoder, look, read_clip
from tests.unit.data import odd
from tests.unit.data.odd import probe

KINDS = {kind.name: kind for kind in decoders.kinds()}
LIGHT = [
    *("h264 open b3.mp4", "h264 refresh b0.mkv", "h264 open b3.ts", "h264 closed b3.avi", "h264 closed b3.flv"),
    *("hevc open-gop=1 b4.mov", "mpeg4 b2.mp4", "mpeg2video b2.mpg", "mpeg1video b0.mpg", "wmv2.wmv"),
    *("libvpx.webm", "libvpx-vp9.mp4", "libsvtav1.mp4", "rate 60.mkv", "hour.mp4", "late.mkv", "ten bits.mp4"),
]


@pytest.mark.parametrize("name", LIGHT)
def test_clips_equal_a_decode_from_the_start(tmp_path, monkeypatch, name):
    rate = KINDS[name].rate
    few = [
        *(Cut(2, number=number) for number in (0, 6, 11, 23)),
        *(Cut(3, 1, fps, number) for fps in (float(rate) / 2, 16.0) for number in (1, 3)),
    ]
    monkeypatch.setattr(decoders, "cuts", lambda rate: iter(few))
    result = decoders.survey(KINDS[name], tmp_path, "pyav")
    assert not result["refused"] and not result["wrong"] and result["clips"] >= 6


def numbers(path, cut, asked="pyav"):
    return odd.counted(read_clip(str(path), cut, preferred=asked).frames)


def copied(source: Path, target: Path, after: float) -> Path:
    """The packets of ``source`` from the last key frame before ``after`` seconds on, in a file that begins to show at
    ``after``, as editors cut without encoding anew."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        start = int(after / stream.time_base)
        old.seek(start, stream=stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                new.mux(packet)
    return target


@pytest.mark.parametrize("end", ["mp4", "mov"])
@pytest.mark.parametrize("after", [0.5, 0.875])
def test_pictures_that_an_edit_list_hides_are_neither_counted_nor_shown(tmp_path, end, after):
    whole = odd.write(tmp_path / f"a.{end}", frames=24, gop_size=8, max_b_frames=2)
    path = copied(whole, tmp_path / f"b.{end}", after)
    with av.open(str(path)) as container:
        shown = odd.counted(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    assert shown[0] == round(8 * after), "the edit list hides what comes before"
    told = probe(str(path))
    assert told.frames == len(shown) and Cut(4).count(told) == len(shown) // 4
    for number in range(len(shown) // 4):
        for fps in (None, 8):
            assert numbers(path, Cut(4, fps=fps, number=number), "decord") == shown[4 * number : 4 * number + 4]
    with pytest.raises(BadClip, match=r"has \d+ frames"):
        read_clip(str(path), Cut(4, number=len(shown) // 4))


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "cmaf"])
def test_a_file_in_fragments_has_the_clips_of_the_plain_one(tmp_path, flags):
    """Its first frame is late, since no edit list takes the delay of b-frames off, and its header counts no frames."""
    plain = odd.write(tmp_path / "a.mp4", frames=24, gop_size=8, max_b_frames=2)
    path = tmp_path / "b.mp4"
    with av.open(str(plain)) as old, av.open(str(path), "w", options={"movflags": flags}) as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0 and next(container.decode(video=0)).time > 0
    assert probe(str(path)).frames == 24
    for cut in (Cut(4, fps=fps, number=number) for fps in (None, 4) for number in (0, 2)):
        assert numbers(path, cut) == numbers(plain, cut)


def test_equal_times_are_frames_of_their_own(tmp_path):
    path = odd.write(tmp_path / "a.mkv", milliseconds=[0, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9], max_b_frames=0)
    assert numbers(path, Cut(4)) == [0, 1, 2, 3] and numbers(path, Cut(4, number=2)) == [8, 9, 10, 11]
    assert Cut(4).count(probe(str(path))) == 3


@pytest.mark.parametrize(("source", "rate"), [(30, 15), (60, 30), (50, 25), (24, 12)])
@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 16000), None])
@pytest.mark.parametrize("start", [0, 3600, Fraction(21, 1000)])
def test_half_the_rate_is_every_second_frame(source, rate, tick, start):
    """This holds an hour into a file as well, and where times are whole milliseconds."""
    tick = tick or Fraction(1, source)
    times = [int((start + Fraction(number, source)) / tick + Fraction(1, 2)) for number in range(12_000)]
    for number in (0, 3, 1999):
        picked = Cut(3, fps=rate, number=number).pick("", Times(np.array(times), tick))
        assert picked.tolist() == [2 * (3 * number + step) for step in range(3)]


@pytest.mark.parametrize("ratio", [Fraction(30000, 1001) / 16, Fraction(25, 24), Fraction(24000, 1001) / 30])
def test_other_rates_are_those_of_exact_fractions(ratio):
    tick = Fraction(1, 90000)
    times = [int(number / (ratio * 16) / tick + Fraction(1, 2)) for number in range(3200)]
    picked = Cut(1500, fps=16).pick("", Times(np.array(times), tick)).tolist()
    for slot in range(0, 1500, 7):
        border = (slot + Fraction(1, 2)) / 16 / tick
        before = max(number for number, time in enumerate(times[: picked[slot] + 3]) if time < border)
        assert picked[slot] == before or border - times[before] < 1


@pytest.mark.parametrize(("seconds", "first"), [(6.0, 0), (0.0, 16), (6.0, 16)])
@pytest.mark.parametrize("end", ["mkv", "mp4", "ts"])
def test_sound_that_lasts_longer_and_a_late_start_are_no_clips(tmp_path, end, seconds, first):
    path = tmp_path / f"a.{end}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        sound = container.add_stream("aac", rate=8000) if seconds else None
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(odd.picture(number), format="rgb24")
            frame.pts, frame.time_base = number + first, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for start in range(0, int(8000 * seconds), 1024):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = 8000, start, Fraction(1, 8000)
            container.mux(sound.encode(tone))
        if sound:
            container.mux(sound.encode())
    told = probe(str(path))
    assert told.frames == 12 and told.seconds == pytest.approx(1.5, abs=0.002)
    for fps in (None, 8):
        assert Cut(4, fps=fps).count(told) == len(look(str(path), Cut(4, fps=fps), most=9)[1]) == 3
    assert numbers(path, Cut(4, fps=8, number=2)) == [8, 9, 10, 11]


MATRICES = {
    "mirrored": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "turned": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "across": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
    "across the other": ((0, -1, -1, 0), lambda frames: frames[:, ::-1, ::-1].swapaxes(1, 2)),
}


def matrix_of(path: Path, rows: tuple[int, int, int, int]) -> None:
    """Write [[a, b], [c, d]] into an mp4's track header."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    for index, value in zip((0, 1, 3, 4), rows, strict=True):
        data[place + 4 * index : place + 4 * index + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


@pytest.mark.parametrize("asked", ["pyav", "decord"])
@pytest.mark.parametrize("name", MATRICES)
def test_mirrored_pictures_are_mirrored_back(tmp_path, name, asked):
    rows, upright = MATRICES[name]
    path = odd.write(tmp_path / "a.mp4")
    stored = read_clip(str(path), Cut(2)).frames
    matrix_of(path, rows)
    clip = read_clip(str(path), Cut(2), preferred=asked)
    assert np.array_equal(clip.frames, upright(stored))
    assert (probe(str(path)).height, probe(str(path)).width) == clip.frames.shape[1:3]


def test_another_angle_is_refused(tmp_path):
    path = odd.write(tmp_path / "a.mp4", turn=30)
    with pytest.raises(BadClip, match="is turned by 30 degrees"):
        probe(str(path))


@pytest.mark.parametrize("larger", [0, 1])
@pytest.mark.parametrize("end", ["mp4", "mkv"])
def test_of_two_tracks_header_and_frames_are_the_same_ones(tmp_path, end, larger):
    path, sizes = tmp_path / f"a.{end}", [(96, 128), (96, 128)]
    sizes[larger] = (192, 256)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=8) for _ in sizes]
        for stream, (height, width) in zip(streams, sizes, strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(12):
            for track, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
                frame = av.VideoFrame.from_ndarray(odd.picture(number + 12 * track, *size), format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    told = probe(str(path))
    for asked in ("pyav", "decord"):
        clip = read_clip(str(path), Cut(4, number=1), preferred=asked)
        assert clip.decoder == "pyav" and odd.counted(clip.frames) == [4, 5, 6, 7]
        assert (told.height, told.width) == clip.frames.shape[1:3] == sizes[0]


WORDS = {
    "playlist.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile.mp4\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile file.mp4\n",
    "notes.txt": "a kite over the sea\n" * 40,
    "words.srt": "1\n00:00:00,000 --> 00:00:01,000\nhello\n\n" * 9,
}


@pytest.mark.parametrize("name", WORDS)
def test_text_and_lists_of_files_are_no_clips(tmp_path, name):
    odd.write(tmp_path / "file.mp4")
    (tmp_path / name).write_text(WORDS[name])
    with pytest.raises(BadClip, match="cannot be decoded: it is no video file of a known kind"):
        read_clip(str(tmp_path / name), Cut(2))


def test_a_picture_is_no_clip(tmp_path):
    odd.write(tmp_path / "a.png", codec="png", pix_fmt="rgb24", frames=1)
    with pytest.raises(BadClip, match="no video file of a known kind"):
        probe(str(tmp_path / "a.png"))


def test_names_that_look_like_protocols_are_files(tmp_path, monkeypatch):
    odd.write(tmp_path / "a.mp4").rename(tmp_path / "take:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert numbers("take:2.mp4", Cut(3)) == [0, 1, 2]


@pytest.mark.parametrize("end", ["mp4", "mkv", "ts", "flv", "mpg"])
def test_larger_frames_than_the_limit_are_refused_before_one_is_decoded(tmp_path, monkeypatch, end):
    path = str(odd.write(tmp_path / f"a.{end}", **({"codec": "mpeg2video", "rate": 25} if end == "mpg" else {})))
    assert read_clip(path, Cut(2), limit=96 * 128).frames.shape == (2, 96, 128, 3)
    monkeypatch.setattr(video, "_packets", None)  # nothing is demuxed, let alone decoded
    with pytest.raises(BadClip, match=r"128x96 are 12288 pixels, above data.maximum_pixels = 12287; raise it"):
        look(path, Cut(2), limit=96 * 128 - 1)


def test_a_size_that_changes_is_refused(tmp_path):
    parts = [odd.write(tmp_path / f"{side}.ts", size=(side, 128)) for side in (96, 64)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers(path, Cut(4)) == [0, 1, 2, 3]
    with pytest.raises(BadClip, match="its size changes from 128x96 to 128x64"):
        read_clip(str(path), Cut(20))


def test_a_clock_that_goes_back_is_refused_at_a_rate():
    """Without resampling all its frames are there."""
    frame = SimpleNamespace(is_corrupt=False, key_frame=True)
    for cut, whole in ((Cut(5), True), (Cut(2, fps=5), True), (Cut(3, fps=5), False)):
        marks = iter([(frame, mark) for mark in (0, 100, 200, 300, 0, 100)])
        if whole:
            assert len(list(readers._frames_of("a", cut, marks, Fraction(1, 1000)))) == cut.frames
        else:
            with pytest.raises(BadClip, match="its clock goes back at frame 4"):
                list(readers._frames_of("a", cut, marks, Fraction(1, 1000)))


def test_two_recordings_in_one_transport_stream(tmp_path):
    """Their times begin anew in the middle."""
    part = odd.write(tmp_path / "a.ts", max_b_frames=0).read_bytes()
    (tmp_path / "both.ts").write_bytes(part + part)
    assert numbers(tmp_path / "both.ts", Cut(24)) == [*range(12), *range(12)]
    with pytest.raises(BadClip, match="its clock goes back at frame 12"):
        read_clip(str(tmp_path / "both.ts"), Cut(24, fps=8))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_recording_that_begins_between_key_frames(tmp_path, codec):
    """What FFmpeg shows of it is the clip; what lacks its key frame is not there."""
    whole = odd.write(tmp_path / "a.ts", codec=codec, rate=25, frames=48, gop_size=12).read_bytes()
    path = tmp_path / "b.ts"
    path.write_bytes(whole[len(whole) // 3 // 188 * 188 :])
    with av.open(str(path)) as container:
        shown = odd.counted(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    assert 12 < len(shown) < 48
    assert numbers(path, Cut(4, number=1)) == shown[4:8] and probe(str(path)).frames == len(shown)


DARK = {"yuv420p10le": 10, "yuv422p10le": 10, "yuv444p12le": 12}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", DARK)
def test_deeper_colours_are_as_bright_as_eight_bits(name, full):
    """Flat fields of one colour each, in both depths: the means differ by less than a quarter of a step of 255."""
    rng, found = np.random.default_rng(0), {8: [], DARK[name]: []}
    for _ in range(40):
        levels = [int(rng.integers(60, 180)), *(int(rng.integers(110, 146)) for _ in range(2))]
        for bits, seen in found.items():
            frame = av.VideoFrame(64, 32, name if bits > 8 else f"yuv{name[3:6]}p")
            frame.color_range = 2 if full else 1
            scales = (2**bits - 1) / 255 if full else 1 << bits - 8, 1 << bits - 8, 1 << bits - 8
            for plane, level, scale in zip(frame.planes, levels, scales, strict=True):
                count, kind = plane.buffer_size // (1 + (bits > 8)), "<u2" if bits > 8 else "u1"
                plane.update(np.full(count, round(level * scale), kind).tobytes())
            seen.append(readers._rgb(frame, VideoReformatter(), VideoReformatter()).reshape(-1, 3).mean(axis=0))
    shallow, deep = found.values()
    assert np.abs(np.mean(deep, axis=0) - np.mean(shallow, axis=0)).max() < 0.25


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le"])
def test_frames_are_converted_without_threads_to_equal_pixels(name):
    """PyAV's converter would start a thread for each core and clip, and wait for it in each frame."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 90, 122, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise[0], format="rgb24").reformat(format=name, threads=1)
    colours, eight, threaded = VideoReformatter(), VideoReformatter(), VideoReformatter()
    running = threads()
    rgb = readers._rgb(frame, colours, eight)
    assert threads() <= running
    shallow = frame if name == "yuv420p" else eight.reformat(frame, format="yuv420p", threads=1)
    running = threads()
    assert np.array_equal(rgb, threaded.reformat(shallow, format="rgb24", threads=2).to_ndarray())
    assert threads() > running, "threads would be seen"


def threads():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"color_primaries": 9, "color_trc": 14, "colorspace": 9}, "is BT.2020, a wide gamut"),
        ({"colorspace": 9}, "is BT.2020, a wide gamut"),
        ({"color_primaries": 12}, "is Display P3, a wide gamut"),
        ({"color_trc": 18, "color_primaries": 9}, r"is HDR \(HLG\)"),
    ],
)
@pytest.mark.parametrize("end", ["mp4", "mkv", "ts"])
def test_colours_that_would_come_out_wrong_are_refused_by_name(tmp_path, end, tags, reason):
    with pytest.raises(BadClip, match=reason):
        look(str(odd.write(tmp_path / f"a.{end}", **tags)), Cut(2))


@pytest.mark.parametrize(("end", "codec"), [("mp4", "libx264"), ("ts", "libx264"), ("mpg", "mpeg2video")])
def test_frames_that_hold_two_moments_are_refused_by_name(tmp_path, end, codec):
    fields = {"flags": av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me, "rate": 25}
    with pytest.raises(BadClip, match="is interlaced"):
        look(str(odd.write(tmp_path / f"fields.{end}", codec, **fields)), Cut(2))
    assert look(str(odd.write(tmp_path / f"frames.{end}", codec, rate=25)), Cut(2))[0].width == 128


def test_frames_of_two_moments_are_refused_within_a_clip_too(tmp_path):
    """16 frames of one moment, then 17 that say they hold two: the first clip is good, the two after it are not."""
    path, tick = str(tmp_path / "turns.mkv"), Fraction(1, 16)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg2video", rate=16)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", tick
        for start, count, fields in ((0, 16, ""), (16, 17, "+ildct+ilme")):
            encoder = av.CodecContext.create("mpeg2video", "w")
            encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
            encoder.time_base, encoder.framerate = tick, Fraction(16)
            encoder.options = {"bf": "0", "g": "4"} | ({"flags": fields} if fields else {})
            frames = []
            for number in range(start, start + count):
                frames.append(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 5 * number, np.uint8), format="rgb24"))
                frames[-1].pts, frames[-1].time_base = number, tick
            for packet in chain.from_iterable(map(encoder.encode, [*frames, None])):
                packet.stream, packet.time_base = stream, tick
                container.mux(packet)
    cuts = [Cut(9, 1, 16.0, number) for number in range(3)]
    assert look(path, cuts[0])[0].width == 96 and len(read_clip(path, cuts[0]).frames) == 9
    for cut in cuts[1:]:
        with pytest.raises(BadClip, match="is interlaced"):
            read_clip(path, cut)


@pytest.mark.parametrize("tags", [{}, {"color_primaries": 1, "color_trc": 1, "colorspace": 1}, {"color_trc": 14}])
def test_usual_colours_are_taken(tmp_path, tags):
    assert numbers(odd.write(tmp_path / "a.mp4", **tags), Cut(2)) == [0, 1]


def test_which_decoder_reads_a_file(tmp_path):
    """The table in docs/data.md."""
    plain = str(odd.write(tmp_path / "a.mp4"))
    told, (seek,) = look(plain, Cut(2))
    assert decoder("decord", told, seek) == "decord" and decoder("pyav", told, seek) == "pyav"
    assert decoder("decord", told, None) == decoder("decord", replace(told, width=1280, height=720), seek) == "pyav"
    for name, form in {
        "open.mp4": {"codec": "libx265"},
        "a.mkv": {},
        "a.ts": {},
        "444.mp4": {"pix_fmt": "yuv444p"},
        "ten.mp4": {"pix_fmt": "yuv420p10le"},
        "equal.mkv": {"milliseconds": [0, 1, 1, 2], "frames": 4},
    }.items():
        assert not probe(str(odd.write(tmp_path / name, **form))).plain, name


def test_packets_are_read_no_further_than_the_clips_that_are_asked_for(tmp_path):
    path = str(odd.write(tmp_path / "a.mp4", frames=2000, size=(32, 32), rate=30, gop_size=30))
    told, seeks = look(path, Cut(4, fps=16), most=3)
    assert 256 <= told.frames < 600 and len(seeks) == 3 and not told.plain
    assert seeks == look(path, Cut(4, fps=16), most=2000)[1][:3]
    assert probe(path).frames == 2000


def test_packets_that_promise_other_frames_cost_time_alone(tmp_path, monkeypatch):
    """A wrong scan is detected, and the file is decoded from its start."""
    path = str(odd.write(tmp_path / "a.mp4", frames=24, gop_size=6))
    cut = Cut(4, number=3)
    told, (seek,) = look(path, cut)
    right = read_clip(path, cut, facts=(told, seek)).frames
    for wrong in (replace(seek, before=seek.before - 1), replace(seek, last=seek.last + 1), replace(seek, start=7)):
        assert np.array_equal(read_clip(path, cut, facts=(told, wrong)).frames, right)


def test_kinds_are_at_least_eighty():
    assert len(KINDS) >= 80 and all(isinstance(kind, Kind) for kind in KINDS.values())
