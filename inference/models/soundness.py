"""Is a tuned model what it says it is? Damage is told by name before anybody reads its answers.

`open_published` has checked every file's size and hash by then; what is left is a model that was published broken.
"""

from data.render import num_equal, render_prompt
from data.tokenizer import TemplateError
from inference.models.load import LoadedModel, base_name
from inference.models.published import PublishedModel, named_base, run_data_config
from train.config.run_config import RunConfig
from train.failure import ConfigError, ModelError
from train.generation.generate import question_conversation
from train.model.base import load_tokenizer, model_fingerprint

PROBE = "How do I treat a nosebleed?"


def check_original(published: PublishedModel, base: RunConfig, *, any_base: bool) -> bool:
    """Say whether `base` is the very model the run started from (its files are read and hashed).

    Raises:
        ConfigError: it is neither that, nor the tuned model itself, and `any_base` was not given.
    """
    fingerprint = model_fingerprint(base)
    if fingerprint.startswith(published.base_fingerprint):
        return True
    # A model compared with itself must show no difference: anybody can check the comparison by that.
    is_itself = fingerprint == model_fingerprint(named_base(str(published.folder)))
    if not any_base and not is_itself:
        raise ConfigError(
            f"'{base_name(base)}' is not the model that {published.folder} was tuned from: its weights are "
            f"{fingerprint[:16]}, the run recorded {published.base_fingerprint}",
            "Name the right one with --base, or compare with this one all the same with --any-base.",
        )
    return False


def check_template(published: PublishedModel, tuned: LoadedModel, base: RunConfig) -> None:
    """Prove that the published chat template renders what the run trained on: the base's, frozen as the run froze it.

    Raises:
        ModelError: it does not: a wrong template.
    """
    # Date and variables of the template are the run's, which were frozen into what it trained on, not the defaults.
    recorded = base.model_copy(update={"data": run_data_config(published).data})
    conversation = question_conversation(PROBE, tuned.system_prompt)
    trained_on = render_prompt(load_tokenizer(recorded), conversation)
    try:
        rendered = render_prompt(tuned.tokenizer, conversation)
    except (TemplateError, ValueError) as error:
        raise ModelError(f"wrong template: {published.folder} cannot render a question: {error}") from error
    if rendered != trained_on:
        raise ModelError(
            f"wrong template: {published.folder} renders a question as {len(rendered)} token ids, its run was trained "
            f"on {len(trained_on)}; they differ from token {num_equal(rendered, trained_on)} on",
            "Publish the model again with the tokenizer and template of its run.",
        )


def check_weights_applied(published: PublishedModel, untuned_sha256: str, tuned: LoadedModel) -> None:
    """Prove that a tuned model has other weights than its base, whose hash is `untuned_sha256`.

    Raises:
        ModelError: what was trained is not in it.
    """
    if tuned.weights_sha256 == untuned_sha256:
        raise ModelError(
            f"trained weights not applied: {published.folder} has exactly the weights of the model it was tuned from "
            f"({tuned.weights_sha256[:16]})",
            "Merge the adapter, or publish the trained weights. (A model is compared with itself by --base FOLDER.)",
        )
