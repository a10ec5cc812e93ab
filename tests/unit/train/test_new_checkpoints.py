from ray_distill.checkpoint.layout import folder_name
from ray_distill.train.driver.new_checkpoints import Arrivals
from tests.checkpoints import write


def test_each_new_whole_checkpoint_is_handed_on_once(tmp_path):
    def save(step):
        folder = tmp_path / folder_name(step)
        write(folder, [], {"step": step}, 0, 1, lambda part: [part])
        return folder

    save(2)
    seen = []
    arrivals = Arrivals(tmp_path, lambda folder, step: seen.append((folder.name, step)))
    arrivals.poll()
    assert seen == []  # it was there before
    manifest = save(4) / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    arrivals.poll()
    assert seen == []  # still in the writing
    manifest.write_text(text)
    save(6)
    arrivals.poll()
    arrivals.poll()
    assert seen == [("step_00000004", 4), ("step_00000006", 6)]
    arrivals.rewind(4)
    arrivals.poll()
    assert seen[2:] == [("step_00000006", 6)]
