"""A GGUF file written aside from a published model, and put in place with what lies beside it. No torch here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.files import move_into_place, write_json, write_text
from inference.gguf.llama_cpp import convert, quantise
from inference.gguf.metadata import gguf_metadata
from inference.gguf.tools import Tools
from inference.gguf.weights import Weights
from inference.models.published import PublishedModel
from inference.models.template import CHAT_TEMPLATE, with_default_system_prompt
from train.distributed.machine import usable_cores
from train.run_folder.manifest import MANIFEST


@contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Yield a folder on the volume of `output`, so that the finished file can be renamed; it is gone afterwards."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        yield Path(folder)


def write_gguf(published: PublishedModel, weights: Weights, tools: Tools, scratch: Path) -> Path:
    """Write the GGUF file, in `scratch`, and return its path."""
    facts = gguf_metadata(published)
    metadata = scratch / "metadata.json"
    write_json(metadata, facts)
    model = staged_model(published, scratch)
    if tools.quantiser is None:
        convert(tools.converter, model, scratch / "model.gguf", weights, metadata)
        return scratch / "model.gguf"
    convert(tools.converter, model, scratch / "f16.gguf", "f16", metadata)
    quantise(tools.quantiser, scratch / "f16.gguf", scratch / "model.gguf", weights.upper(), usable_cores())
    (scratch / "f16.gguf").unlink()
    return scratch / "model.gguf"


def staged_model(published: PublishedModel, scratch: Path) -> Path:
    """Rebuild the model folder by links, but for the chat template, which learns the system prompt as its default."""
    staged = scratch / "model"
    staged.mkdir()
    for name in (*published.manifest["files"], MANIFEST):
        if name != CHAT_TEMPLATE:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            # Links, since a copy would take room that was not asked for; resolved, since they stand in another folder.
            (staged / name).symlink_to((published.folder / name).resolve())
    template = (published.folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    (staged / CHAT_TEMPLATE).write_text(with_default_system_prompt(template, published.system_prompt), encoding="utf-8")
    return staged


def put_in_place(file: Path, output: Path, modelfile: str, result: dict[str, Any] | None) -> None:
    """Put the GGUF file in place last: where it is, what lies beside it belongs to it."""
    check_file = beside(output, "check.json")
    if result is None:
        check_file.unlink(missing_ok=True)  # an earlier file's
    else:
        write_json(check_file, {"file": output.name, **result})
    write_text(beside(output, "Modelfile"), modelfile)
    move_into_place(file, output)


def beside(output: Path, suffix: str) -> Path:
    """Return the path of FILE.check.json or FILE.Modelfile."""
    return output.with_name(f"{output.name}.{suffix}")
