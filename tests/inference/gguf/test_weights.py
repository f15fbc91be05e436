"""The room that an export takes is estimated from above, by the headers of the files alone."""

import json

from inference.gguf.weights import count_weights, needed_space_bytes


def test_needed_space_counts_the_f16_file_that_q4_k_m_is_made_from():
    assert needed_space_bytes(10**9, "q4_k_m") > needed_space_bytes(10**9, "f16") > needed_space_bytes(10**9, "q8_0")


def test_weights_are_counted_from_headers(smoke_run):
    summary = json.loads((smoke_run / "training_summary.json").read_text())
    assert count_weights(smoke_run / "best_model") == summary["parameters"]["total"]
