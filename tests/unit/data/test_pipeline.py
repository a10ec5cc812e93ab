from ray_distill.data import pipeline


def test_progress_counts_and_says_the_time_left(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now[0])
    progress = pipeline.Progress("clips", 100, said.append)
    for time, done, bad in ((2, 10, 0), (5, 10, 1), (6, 10, 0), (10, 20, 0), (11, 50, 2)):
        now[0] = time
        progress.add(done, bad)
    assert said == [
        "   clips: 20 of 100, 1 skipped, 4/s, 20 s left",
        "   clips: 50 of 100, 1 skipped, 5/s, 10 s left",
        "   clips: 100 of 100, 3 skipped, 9.09/s",
    ]
