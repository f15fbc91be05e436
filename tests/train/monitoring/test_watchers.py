import json

from data.files import write_json
from train.distributed.group import Ranks
from train.distributed.topology import Topology
from train.monitoring.watchers import Watch, record_start
from train.run_folder.run_folder import RunFolder


class Heard:
    def __init__(self):
        self.phases = []

    def enter(self, phase):
        self.phases.append(phase)


def test_every_start_is_noted_with_its_step(tmp_path):
    folder, ranks = RunFolder(tmp_path), Ranks(Topology())
    assert [record_start(folder, step, ranks) for step in (0, 4)] == [1, 2]
    starts = json.loads(folder.starts.read_text())
    assert [(start["first_step"], start["world_size"]) for start in starts] == [(0, 1), (4, 1)]


def test_a_phase_is_told_to_all_and_keeps_what_the_status_said_before(tmp_path):
    folder, heard = RunFolder(tmp_path), Heard()
    write_json(folder.status, {"phase": "data", "step": 4})
    Watch([heard], folder, num_restarts=1, resumed=True).enter("model")
    status = json.loads(folder.status.read_text())
    assert (status["phase"], status["step"], status["restarts"]) == ("model", 4, 1)
    Watch([heard], None, num_restarts=1, resumed=True).enter("speed")  # a rank that writes nothing
    assert heard.phases == ["model", "speed"]
