"""The proof of an exported file: llama.cpp sees the prompts we trained on, and answers as transformers does.

Three things are asked of a GGUF file, through the server inside xllamacpp, the way any user of llama.cpp asks:
1. The token ids of every prompt are ours, with the system prompt given, and left to the file's own template.
2. Its greedy answers begin as those of the published weights do, computed by transformers in fp32.
3. Where an answer takes another turn, how far apart were the two tokens? A near tie is rounding, a wide gap a bug.
"""

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from data.render import num_equal
from inference.models.load import LoadedModel
from train.failure import ModelError
from train.generation.batched import answer_prompts, question_prompts
from train.generation.generate import question_conversation
from train.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECK_TOKENS = 64
REQUEST_TIMEOUT_SECONDS = 1800
GAP_LIMITS_NATS = {"f16": 0.1, "q8_0": 0.5}
"""How far apart two tokens may be, by the exact weights, for the file to prefer the other one: chosen, not measured.
Below q8_0's precision there is no rule: q4_k_m changes the model, and the numbers say how much."""

NOT_PUT_IN_PLACE = "The file was not put in place."


@dataclass(frozen=True)
class Reference:
    """A reference is what transformers answers one question."""

    question: str
    prompt_ids: list[int]
    token_ids: list[int]
    """Ends with the end-of-turn token, unless cut off at CHECK_TOKENS."""


@dataclass(frozen=True)
class Agreement:
    """An agreement says how far an answer of the file is that of the reference."""

    question: str
    prompt_tokens: int
    reference_tokens: int
    equal_tokens: int
    gap_nats: float | None
    """At the first difference, log-probability of the reference's token less that of the file's, by the exact weights;
    None where there is no difference."""
    answer: str

    @property
    def is_equal(self) -> bool:
        """Say whether the two answers are the same, token for token."""
        return self.gap_nats is None


def prove(file: Path, weights: str, loaded: LoadedModel, questions: Sequence[str]) -> dict[str, Any]:
    """Return what FILE.check.json holds. Both models are in memory for a while, the reference in fp32.

    Raises:
        ModelError: llama.cpp cannot load the file, sees other prompts, or answers as another model would.
    """
    model, tokenizer = loaded.model.float(), loaded.tokenizer
    prompts = question_prompts(tokenizer, questions, loaded.system_prompt)
    answers = answer_prompts(model, tokenizer, prompts, GenerationSettings(CHECK_TOKENS)).answers
    references = [
        Reference(question, answer.prompt_ids, answer.token_ids)
        for question, answer in zip(questions, answers, strict=True)
    ]
    num_context_tokens = max(len(answer.prompt_ids) for answer in answers) + CHECK_TOKENS + 16
    with LlamaServer.of(file, num_context_tokens) as server:
        check_prompts(server, tokenizer, references, loaded.system_prompt)
        agreements = [agreement(server, model, tokenizer, reference) for reference in references]
    refuse_wide_gaps(agreements, weights)
    return report(agreements, weights, loaded)


def report(agreements: Sequence[Agreement], weights: str, loaded: LoadedModel) -> dict[str, Any]:
    """Sum the agreements up, with what was compared with what."""
    return {
        "weights": weights,
        "llama_cpp": f"xllamacpp {version('xllamacpp')}",
        "reference": f"transformers {version('transformers')}, float32 on {loaded.model.device.type}",
        "reference_weights": loaded.name,
        "max_new_tokens": CHECK_TOKENS,
        "prompt_token_ids_equal": True,
        "default_system_prompt_equal": True,
        "equal_answers": sum(one.is_equal for one in agreements),
        "equal_leading_tokens": sum(one.equal_tokens for one in agreements),
        "reference_tokens": sum(one.reference_tokens for one in agreements),
        "widest_gap_nats": max((one.gap_nats or 0.0 for one in agreements), default=0.0),
        "gap_limit_nats": GAP_LIMITS_NATS.get(weights),
        "answers": [asdict(one) for one in agreements],
    }


class LlamaServer:
    """This is llama.cpp's server in this process, on a free port of the loopback address."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)

    @classmethod
    @contextmanager
    def of(cls, file: Path, num_context_tokens: int) -> Iterator["LlamaServer"]:
        """Serve a GGUF file while the context lasts (ModelError where llama.cpp cannot load it)."""
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.hostnames, parameters.port = ["127.0.0.1"], 0
        parameters.n_ctx, parameters.n_parallel = num_context_tokens, 1
        parameters.cpuparams.n_threads = torch.get_num_threads()  # heeds OMP_NUM_THREADS
        parameters.use_jinja, parameters.warmup, parameters.verbosity = True, False, -1
        try:
            server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ModelError(f"llama.cpp cannot load the exported file: {error}", NOT_PUT_IN_PLACE) from error
        yield cls(server.listening_address)
        del server

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON object; the loopback address is not asked through a proxy."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            reason = answer["error"].get("message", answer["error"])
            raise ModelError(f"llama.cpp cannot use the exported file ({path}): {reason}", NOT_PUT_IN_PLACE)
        return answer

    def prompt_ids(self, conversation: Sequence[dict[str, str]]) -> list[int]:
        """Return the token ids llama.cpp makes of a conversation: its template engine, then its tokenizer."""
        prompt = self.ask("/apply-template", {"messages": list(conversation)})["prompt"]
        tokens: list[int] = self.ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})[
            "tokens"
        ]
        return tokens

    def greedy_ids(self, prompt_ids: list[int], num_tokens: int) -> tuple[list[int], bool]:
        """Return the tokens of a greedy answer, and whether the model ended it itself."""
        body = {"prompt": prompt_ids, "n_predict": num_tokens, "temperature": 0, "return_tokens": True}
        answer = self.ask("/completion", body)
        return answer["tokens"], answer["stop_type"] == "eos"


def check_prompts(
    server: LlamaServer, tokenizer: "PreTrainedTokenizerBase", references: Sequence[Reference], system_prompt: str
) -> None:
    """Raise ModelError where a prompt is not ours token for token, with the system prompt given or left to the file."""
    for reference in references:
        given = question_conversation(reference.question, system_prompt)
        for conversation, how in ((given, "given"), (given[1:], "left to the file")):
            theirs = server.prompt_ids(conversation)
            if theirs != reference.prompt_ids:
                raise ModelError(
                    f"llama.cpp makes another prompt of {reference.question!r}, system prompt {how}: "
                    + first_difference(tokenizer, reference.prompt_ids, theirs),
                    NOT_PUT_IN_PLACE,
                )


def first_difference(tokenizer: "PreTrainedTokenizerBase", ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Say how far two prompts agree and how each goes on, in words."""
    position = num_equal(ours, theirs)
    mine, other = (repr(tokenizer.decode(ids[position : position + 5])) for ids in (ours, theirs))
    return f"of {len(ours)} tokens {position} agree, then come {mine} here and {other} there ({len(theirs)} tokens)"


def agreement(
    server: LlamaServer, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", reference: Reference
) -> Agreement:
    """Ask the file one question and compare its answer with the reference's; the gap is measured where they part."""
    token_ids, has_ended = server.greedy_ids(reference.prompt_ids, len(reference.token_ids))
    if has_ended and token_ids[-1:] != [tokenizer.eos_token_id]:
        token_ids = [*token_ids, tokenizer.eos_token_id]
    equal = num_equal(reference.token_ids, token_ids)
    gap = None
    if equal < min(len(reference.token_ids), len(token_ids)):
        context = [*reference.prompt_ids, *reference.token_ids[:equal]]
        gap = round(gap_nats(model, context, reference.token_ids[equal], token_ids[equal]), 4)
    return Agreement(
        question=reference.question,
        prompt_tokens=len(reference.prompt_ids),
        reference_tokens=len(reference.token_ids),
        equal_tokens=equal,
        gap_nats=gap,
        answer=tokenizer.decode(token_ids, skip_special_tokens=True).strip(),
    )


@torch.inference_mode()
def gap_nats(model: "PreTrainedModel", context: list[int], preferred: int, other: int) -> float:
    """Measure how much likelier one token is than another after `context`, by the exact weights."""
    input_ids = torch.tensor([context], device=model.device)  # [1, context_tokens]
    logits = model(input_ids=input_ids).logits[0, -1].float()  # [vocabulary]
    return float(logits[preferred] - logits[other])


def refuse_wide_gaps(agreements: Sequence[Agreement], weights: str) -> None:
    """Raise ModelError where the file prefers a token that the exact weights find much less likely."""
    limit = GAP_LIMITS_NATS.get(weights)
    for one in agreements:
        if limit is not None and one.gap_nats is not None and one.gap_nats > limit:
            raise ModelError(
                f"the {weights} file answers {one.question!r} as another model would: after {one.equal_tokens} equal "
                f"tokens it takes one that is {one.gap_nats:.2f} nats less likely (at most {limit} is rounding)",
                NOT_PUT_IN_PLACE,
            )
