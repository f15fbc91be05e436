"""The story of one run, top to bottom: configuration -> ranks -> data -> model -> training -> publication -> demo."""

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import transformers

from data.files import write_json
from train.batching.steps import refuse_nonsense
from train.batching.tokenise import TrainingData, load_training_data
from train.config.run_config import ResolvedConfig
from train.distributed.group import join
from train.distributed.machine import keep_freed_memory, usable_cores
from train.distributed.topology import Topology
from train.failure import Phases
from train.fast.choose import choose_path
from train.fault_tolerance.begin import begin, run_identity
from train.fault_tolerance.checkpoints import checkpoint_bytes
from train.fault_tolerance.guards import Guards
from train.fault_tolerance.stopping import refuse_unsavable
from train.generation.while_training import answer_callbacks
from train.methods.sft import ChatTrainer, build_trainer
from train.model.adapt import ParameterCount, adapt, master_weights_in_fp32
from train.model.base import load_model, load_tokenizer, pick_device, pick_precision
from train.monitoring.recorder import Recorder
from train.monitoring.watchers import make_recorder, start_watching
from train.planning.auto_batch import with_measured_batch
from train.planning.outlook import measured_link, outlook
from train.results.model_card import model_card
from train.results.publish import Publication, publish
from train.results.report.page import write_report_or_warn
from train.results.summary import describe_batch, describe_setup, summary, write_demo
from train.run_folder.provenance import provenance
from train.run_folder.retries import retried
from train.run_folder.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(resolved: ResolvedConfig, topology: Topology, phases: Phases, guards: Guards) -> None:
    """Train one model and leave a complete run folder; a finished one is left as it is."""
    config, folder = resolved.config.settled(topology.world_size), RunFolder(resolved.config.output.dir)
    quieten_libraries(is_main=topology.is_main)
    if pick_device().type == "cpu":
        keep_freed_memory()

    with phases("rendezvous"):
        ranks = join(topology, config.distributed, guards.vigil)
        link = measured_link(config, ranks)
    with phases("data"):
        tokenizer = load_tokenizer(config)
        data = load_training_data(config, tokenizer)
        refuse_nonsense(config, world_size=topology.world_size, num_train_rows=len(data.train.rows))
    with phases("agreement"):
        identity = run_identity(resolved.config, data, topology.world_size)
        ranks.agree("run shape", identity, config.distributed.rendezvous_timeout_seconds)
        beginning, checkpoint = begin(resolved, folder, identity, ranks, guards.lock)
        if checkpoint is not None:
            say(topology, f"resuming from {checkpoint}")
    if beginning == "finished":
        say(topology, f"{folder.root} holds this very run, finished. Set output.if_exists=fresh to train it again.")
        return
    watch = start_watching(resolved, folder, ranks, identity, checkpoint)
    phases.on_enter = watch.enter
    with phases("model"):
        transformers.set_seed(config.seed)
        model = load_model(config, tokenizer)
        parameters = adapt(model, config.adapt)
        master_weights_in_fp32(model)
        refuse_unsavable(checkpoint_bytes(parameters.num_trainable), config.distributed.grace_seconds)
        say(topology, describe_setup(config, data, parameters, topology.world_size))
    with phases("speed"):
        path = choose_path(config, model, tokenizer, data, identity["model"], ranks)
        say(topology, "\n".join([*path.report, *outlook(config, model, data, path, link, topology)]))
    with phases("training"), path.training(model):
        asked = resolved.config.optim.batch_size
        config = with_measured_batch(config, asked, model, path.collator, data, ranks, checkpoint)
        say(topology, describe_batch(config, asked, topology.world_size))
        recorder = make_recorder(config, data, folder, watch, ranks)
        phases.on_enter = recorder.enter
        trainer = build_trainer(
            config,
            model=model,
            tokenizer=tokenizer,
            train_rows=data.train,
            validation_rows=data.validation,
            folder=folder,
            world_size=topology.world_size,
            collator=path.collator,
            stop=guards.stop,
            ranks=ranks,
            write_history=recorder.save,
            callbacks=[recorder, *answer_callbacks(config, tokenizer, data, folder, ranks)],
        )
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        ranks.leave()
    if topology.is_main:
        finish(
            replace(resolved, config=config), folder, trainer, tokenizer, data, parameters, recorder, identity, phases
        )


def finish(
    resolved: ResolvedConfig,
    folder: RunFolder,
    trainer: ChatTrainer,
    tokenizer: "PreTrainedTokenizerBase",
    data: TrainingData,
    parameters: ParameterCount,
    recorder: Recorder,
    identity: dict[str, Any],
    phases: Phases,
) -> None:
    """What rank 0 does alone once training is over: publish the best model, ask it the demo questions, sum up."""
    config, model = resolved.config, trainer.model
    torch.set_num_threads(usable_cores())
    with phases("publication"):
        best_step = trainer.load_best()
        facts = {"base_model": config.model.name, "best_step": best_step, "identity": identity}
        facts |= {"dataset_sha256": data.facts["dataset_sha256"], "made_by": provenance()}
        card = model_card(summary(resolved, data, parameters, recorder, identity, phases, best_step))
        publication = Publication(data.system_prompt, data.demo_questions[0], facts, card)
        retried("best_model", lambda: publish(model, tokenizer, folder, publication, pick_precision(config.model)))
    del trainer
    gc.collect()
    if config.output.demo:
        with phases("demo"):
            write_demo(config, folder, model, tokenizer, data)
    write_json(folder.summary, summary(resolved, data, parameters, recorder, identity, phases, best_step))
    write_report_or_warn(folder)
    recorder.enter("done", percent=100.0, seconds_left=0)


def quieten_libraries(*, is_main: bool) -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_warning() if is_main else transformers.utils.logging.set_verbosity_error()


def say(topology: Topology, text: str) -> None:
    if topology.is_main:
        print(text, flush=True)
