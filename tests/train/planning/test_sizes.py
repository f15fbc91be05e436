import pytest
import torch
from transformers import AutoModelForCausalLM, SmolLM3Config

from train.config.run_config import AdaptConfig, resolve_config
from train.model.adapt import adapt
from train.planning.sizes import count_rows, memory_estimate_bytes, model_shape, run_sizes


def flagship_shape(head, *, recomputes=False):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SmolLM3Config())
    adapt(model, AdaptConfig(head=head))
    return model_shape(model, recomputes=recomputes)


def test_the_flagships_shape():
    shape = flagship_shape("untied")
    assert (shape.num_layers, shape.num_cached_layers, shape.num_trained_layers) == (36, 34, 2)
    assert (shape.layer_parameters, shape.head_parameters) == (78_118_912, 262_668_288)
    assert (shape.attention_width, shape.key_value_parameters) == (2048, 2 * 512 * 2048)
    assert shape.head_trains


@pytest.mark.parametrize(("head", "layers"), [("untied", 2), ("tied", 36), ("frozen", 2)])
def test_a_tied_head_sends_the_backward_pass_through_every_layer(head, layers):
    assert flagship_shape(head).num_backward_layers == layers


def test_sizes_follow_from_rows_and_batch():
    config = resolve_config("smoke", [], {}).config
    sizes = run_sizes(config, 2)
    assert (sizes.num_train_rows, sizes.num_validation_rows) == count_rows(config)
    assert sizes.effective_batch_size == config.effective_batch_size(2)
    assert sizes.steps_per_epoch == -(-sizes.num_train_rows // sizes.effective_batch_size)
    assert sizes.total_steps == sizes.steps_per_epoch * config.optim.epochs


def test_checkpointing_and_smaller_batches_take_less_memory():
    config = resolve_config("smollm3-l40s-x4", [], {}).config
    small = resolve_config("smollm3-l40s-x4", ["optim.batch_size=1"], {}).config
    parameters = run_sizes(config, 1).parameters
    whole = memory_estimate_bytes(config, flagship_shape("untied"), parameters, 1)
    assert memory_estimate_bytes(config, flagship_shape("untied", recomputes=True), parameters, 1) < whole
    assert memory_estimate_bytes(small, flagship_shape("untied"), parameters, 1) < whole
