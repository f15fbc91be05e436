"""What a GGUF file says beside its weights: where it comes from, and whether the converter left anything out."""

from pathlib import Path
from typing import Any

from inference.models.published import PublishedModel
from inference.models.template import with_default_system_prompt
from train.failure import ModelError
from train.results.model_card import describe_base, model_title

TOOL = "fieldcraft"


def gguf_metadata(published: PublishedModel) -> dict[str, Any]:
    """Return the `general.*` keys that the converter's --metadata reads, without what the manifest does not know."""
    manifest, identity = published.manifest, published.manifest["identity"]
    base = describe_base(published.base.model.model_dump(), published.base.seed)
    dataset_name = Path(str(identity["data.dataset"])).stem
    made_by, dataset_sha256 = manifest.get("made_by") or {}, manifest.get("dataset_sha256")
    origin = {
        "base": f"{base.words}, weights {published.base_fingerprint}",
        "data": f"{dataset_name}, sha256 {dataset_sha256}" if dataset_sha256 else dataset_name,
        "git": made_by.get("git_commit"),
        "image": made_by.get("image"),
        "best step": manifest.get("best_step"),
    }
    told = "; ".join(f"{name}: {value}" for name, value in origin.items() if value is not None)
    hub = base.hub_id and f"https://huggingface.co/{base.hub_id}"
    base_model = {
        "name": (base.hub_id or base.words).split("/")[-1],
        "organization": base.hub_id.split("/")[0] if base.hub_id else None,
        "version": published.base_fingerprint,
        "repo_url": hub,
    }
    dataset = {"name": dataset_name, "version": dataset_sha256 and f"sha256:{dataset_sha256}"}
    return {
        "general.name": model_title(base, dataset_name),
        "general.finetune": TOOL,
        "general.description": f"Fine-tuned with {TOOL}. {told}",
        "general.base_models": [_known(base_model)],
        "general.datasets": [_known(dataset)],
        **({"general.version": made_by["git_commit"]} if made_by.get("git_commit") else {}),
    }


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def check_written(file: Path, published: PublishedModel) -> None:
    """Read the finished file, and see whether everything is in it that must be.

    Raises:
        ModelError: names what is missing.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    template = reader.get_field("tokenizer.chat_template")
    description = reader.get_field("general.description")
    found = {
        # A tied head is the embedding: it is not written a second time.
        "its own LM head (output.weight)": published.config_json.get("tie_word_embeddings", True)
        or any(tensor.name == "output.weight" for tensor in reader.tensors),
        "the chat template with the system prompt": template is not None
        and template.contents().startswith(with_default_system_prompt("", published.system_prompt)),
        "the provenance (general.description)": description is not None
        and published.base_fingerprint in description.contents(),
    }
    missing = [name for name, is_there in found.items() if not is_there]
    if missing:
        raise ModelError(f"the converter left out {' and '.join(missing)}", "Nothing was put in place.")
