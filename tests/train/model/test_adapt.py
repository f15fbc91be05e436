import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, SmolLM3Config

from train.config.run_config import AdaptConfig
from train.failure import ConfigError
from train.model.adapt import adapt, load_trainable, trainable_parameters, transformer_layers

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
MODEL_TYPES = ["llama", "smollm3", "qwen2", "qwen3", "gpt_neox", "gemma2"]


def tiny(model_type, **overrides):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**TINY, **overrides}))


def test_flagship_sizes_from_the_architecture_alone():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SmolLM3Config())
    count = adapt(model, AdaptConfig())
    assert count.num_trainable == 418_914_304
    assert str(count) == "418.9 M trainable = 13.62 % of the base model's 3,075.1 M"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_last_n_layers_and_an_untied_head_train(model_type):
    model = tiny(model_type, tie_word_embeddings=True)
    before = model.get_input_embeddings().weight.detach().clone()
    adapt(model, AdaptConfig(last_n_layers=1))
    trained = set(trainable_parameters(model))
    last = {id(parameter) for parameter in transformer_layers(model)[-1].parameters()}
    last.add(id(model.get_output_embeddings().weight))
    assert {id(parameter) for parameter in trainable_parameters(model).values()} == last
    assert trained
    assert torch.equal(model.get_output_embeddings().weight, before)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_untied_model_survives_saving(model_type, tmp_path):
    model = tiny(model_type, tie_word_embeddings=True)
    adapt(model, AdaptConfig())
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1.0)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_every_trainable_tensor_gets_a_finite_gradient():
    for head in ("untied", "tied", "frozen"):
        for checkpointing in (False, True):
            model = tiny("llama", tie_word_embeddings=True)
            adapt(model, AdaptConfig(head=head))
            if checkpointing:
                model.gradient_checkpointing_enable()
            ids = torch.tensor([[1, 2, 3, 4]])
            model.train()(ids, labels=ids).loss.backward()
            gradients = [parameter.grad for parameter in trainable_parameters(model).values()]
            assert gradients
            assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_head_tied_trains_the_embedding_and_frozen_does_not():
    tied, frozen = tiny("llama", tie_word_embeddings=True), tiny("llama", tie_word_embeddings=True)
    adapt(tied, AdaptConfig(head="tied"))
    adapt(frozen, AdaptConfig(head="frozen"))
    assert tied.get_input_embeddings().weight.requires_grad
    assert not frozen.get_output_embeddings().weight.requires_grad


def test_all_layers():
    model = tiny("llama", tie_word_embeddings=True)
    count = adapt(model, AdaptConfig(layers="all", head="tied"))
    assert count.num_trainable == count.num_total == count.num_base


def test_too_many_layers_are_refused_with_numbers():
    with pytest.raises(ConfigError, match="last_n_layers=9, but the model has 3 layers"):
        adapt(tiny("llama"), AdaptConfig(last_n_layers=9))


def test_loading_weights_of_another_configuration_is_refused():
    model = tiny("llama")
    adapt(model, AdaptConfig(last_n_layers=1))
    tensors = {name: parameter.detach() + 1 for name, parameter in trainable_parameters(model).items()}
    load_trainable(model, tensors)
    assert all(torch.equal(parameter, tensors[name]) for name, parameter in trainable_parameters(model).items())
    adapt(model, AdaptConfig(last_n_layers=2))
    with pytest.raises(ValueError, match="do not belong"):
        load_trainable(model, tensors)
