from data.files import write_json
from train.run_folder.manifest import is_published, published_atomically
from train.run_folder.run_folder import RunFolder


def test_clear_keeps_the_published_model(tmp_path):
    folder = RunFolder(tmp_path)
    with published_atomically(folder.best_model) as aside:
        (aside / "v").write_text("1")
    write_json(folder.summary, {})
    (folder.checkpoints / "checkpoint-1").mkdir(parents=True)
    assert folder.is_finished()
    folder.clear()
    assert not folder.is_finished()
    assert not folder.checkpoints.exists()
    assert is_published(folder.best_model)
