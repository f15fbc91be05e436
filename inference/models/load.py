"""The one loader of every inference script: tuned model, its original, or any model by name.

A tuned model and its original share tokenizer, frozen chat template and system prompt: those of the published
folder. What differs is the weights alone, so both see the same token ids for the same question.

    tuned = load_tuned(open_published(Path("outputs/laptop")))
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from data.dataset import read_prompt
from data.libraries import quieten_libraries
from inference.models.published import PublishedModel
from train.config.run_config import RunConfig
from train.failure import ModelError
from train.model.base import load_model, load_tokenizer
from train.run_folder.saved_weights import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ATTENTION: Literal["sdpa"] = "sdpa"
"""One question at a time gains nothing from flash attention, and both models must compute alike."""

Role = Literal["tuned", "original"]


@dataclass(frozen=True)
class LoadedModel:
    """This is a model ready to be asked, and what a record of its answers says about it."""

    role: Role
    name: str
    base_model: str
    model: PreTrainedModel
    tokenizer: "PreTrainedTokenizerBase"
    system_prompt: str

    @property
    def description(self) -> str:
        """Say 'tuned model outputs/laptop/best_model (from embedded), float32 on cpu'."""
        origin = f" (from {self.base_model})" if self.role == "tuned" else ""
        return f"{self.role} model {self.name}{origin}, {self.dtype} on {self.model.device.type}"

    @property
    def dtype(self) -> str:
        """Return the type of its weights, such as 'float32'."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def weights_sha256(self) -> str:
        """Return the hash of its weights; it is taken once, for a large model it takes seconds."""
        return weights_sha256(self.model)

    def facts(self) -> dict[str, str]:
        """Return what a record says of a model, by which a reader can tell it from any other."""
        return {
            "role": self.role,
            "name": self.name,
            "base_model": self.base_model,
            "weights_sha256": self.weights_sha256,
            "chat_template_sha256": _sha256(str(self.tokenizer.chat_template)),
            "system_prompt_sha256": _sha256(self.system_prompt),
            "device": self.model.device.type,
            "dtype": self.dtype,
        }


def load_tuned(published: PublishedModel) -> LoadedModel:
    """Load the published model, in the precision it was saved in, on the best device here."""
    quieten_libraries(warnings=False)  # nothing stands between question and answer
    model = AutoModelForCausalLM.from_pretrained(
        published.folder, use_safetensors=True, dtype="auto", attn_implementation=ATTENTION
    )
    return LoadedModel(
        role="tuned",
        name=str(published.folder),
        base_model=base_name(published.base),
        model=model.to(inference_device()).eval(),
        tokenizer=AutoTokenizer.from_pretrained(published.folder),
        system_prompt=published.system_prompt,
    )


def load_original(published: PublishedModel, base: RunConfig) -> LoadedModel:
    """Load the model `base` with the published model's tokenizer, template, system prompt and precision.

    `base` is `published.base`, or another place where that model lies. Random weights (`model.random_init`) are
    made again from their seed.

    Raises:
        ModelError: the base model cannot be had here.
    """
    quieten_libraries(warnings=False)
    tokenizer = AutoTokenizer.from_pretrained(published.folder)
    saved_dtype = AutoConfig.from_pretrained(published.folder).dtype
    model = _load_base(base, tokenizer, precision="bf16" if saved_dtype == torch.bfloat16 else "fp32")
    return LoadedModel("original", base_name(base), base_name(base), model, tokenizer, published.system_prompt)


def load_by_name(base: RunConfig) -> LoadedModel:
    """Load a model that belongs to no run: its own template, frozen as for training, and the default system prompt.

    Raises:
        ModelError, TemplateError: it cannot be had here, or cannot be asked questions.
    """
    quieten_libraries(warnings=False)
    tokenizer = load_tokenizer(base)
    # On a CPU the weights as they are, even where bf16 would be computed natively.
    model = _load_base(base, tokenizer, precision="auto" if torch.cuda.is_available() else "fp32")
    system_prompt = read_prompt(base.data_file(base.data.system_prompt))
    return LoadedModel("original", base_name(base), base_name(base), model, tokenizer, system_prompt)


def base_name(base: RunConfig) -> str:
    """Name a base model in words, or say that its weights are random.

    >>> base_name(RunConfig())
    'embedded'
    """
    return base.model.name if base.model.random_init is None else f"random weights of seed {base.seed}"


def inference_device() -> torch.device:
    """Return the best device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def weights_sha256(model: torch.nn.Module) -> str:
    """Return the sha256 of all names, types, shapes and values, in the order of the names.

    Unlike a file's hash it is the same for a head that is tied to the embedding and for an equal copy of it.
    """
    return content_hash(model.state_dict())


def _load_base(
    base: RunConfig, tokenizer: "PreTrainedTokenizerBase", precision: Literal["auto", "bf16", "fp32"]
) -> PreTrainedModel:
    section = base.model.model_copy(update={"precision": precision, "attention": ATTENTION})
    try:
        model = load_model(base.model_copy(update={"model": section}), tokenizer)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model '{base.model.name}' cannot be loaded: {reason}") from error
    on_device: PreTrainedModel = model.to(inference_device())
    return on_device


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
