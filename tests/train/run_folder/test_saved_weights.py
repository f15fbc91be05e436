import pytest
import torch

from tests.small_volume import fill_up
from train.failure import ExitCode, StorageError, exit_code_of
from train.run_folder.saved_weights import BestWeights, content_hash, load_weights, save_weights

MIB = 2**20


def tensors(num_bytes, value=1.0):
    return {"weight": torch.full((num_bytes // 4,), value)}


def test_the_hash_is_of_names_types_shapes_and_values_in_any_order():
    one, other = torch.arange(6.0), torch.zeros(2)
    known = content_hash({"one": one, "other": other})
    assert content_hash({"other": other.clone(), "one": one.clone()}) == known
    for changed in (
        {"one": one, "another": other},
        {"one": one.to(torch.float64), "other": other},
        {"one": one.view(2, 3), "other": other},
        {"one": one, "other": other + 1},
    ):
        assert content_hash(changed) != known


def test_a_full_volume_keeps_the_previous_best_and_the_new_one_stays_in_memory(small, capsys):
    best = BestWeights(small / "best.safetensors")
    best.keep(2, tensors(MIB, 2.0), waits=[])
    obstacle = fill_up(small)
    best.keep(4, tensors(MIB, 4.0), waits=[0.0])
    assert "the best weights could not be written" in capsys.readouterr().err
    assert load_weights(best.path)["weight"][0] == 2.0
    assert best.load()["weight"][0] == 4.0
    assert not list(small.glob(".*"))
    with pytest.raises(Exception) as raised:  # noqa: PT011
        best.save()
    assert exit_code_of(raised.value) is ExitCode.STORAGE
    obstacle.unlink()
    best.save()
    assert load_weights(best.path)["weight"][0] == 4.0


@pytest.mark.parametrize("harm", ["bytes", "cut", "gone"])
def test_best_weights_that_are_not_what_was_written(tmp_path, harm):
    path = tmp_path / "best.safetensors"
    save_weights(path, tensors(4096), step=2)
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-4] + (b"abcd" if harm == "bytes" else b""))
    with pytest.raises(StorageError, match="sha256 differs" if harm == "bytes" else "cannot be read"):
        load_weights(path)
