"""The story of one run, top to bottom: configuration -> ranks -> data -> model -> training -> publication -> demo."""

import gc
from dataclasses import replace

import torch
import transformers

from data.files import write_json
from data.libraries import quieten_libraries
from train.batching.steps import refuse_nonsense
from train.batching.tokenise import load_training_data
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
from train.methods import sft
from train.methods.exact_loop import ExactLoop
from train.model.adapt import ParameterCount, adapt, master_weights_in_fp32
from train.model.base import load_model, load_tokenizer, pick_device, pick_precision
from train.monitoring.recorder import Recorder
from train.monitoring.watchers import make_recorder, start_watching
from train.planning.auto_batch import settled_by_measure
from train.planning.outlook import measured_link, outlook
from train.results.model_card import model_card
from train.results.publish import Publication, publish
from train.results.report.page import write_report_or_warn
from train.results.summary import describe_batch, describe_setup, summary, write_demo
from train.run_context import Run
from train.run_folder.provenance import provenance
from train.run_folder.retries import retried
from train.run_folder.run_folder import RunFolder

METHODS = {"sft": sft.build_trainer}
"""What is learnt -> who builds its trainer. Any of them has the exact loop, and the fast paths below TRL's call."""


def train_model(resolved: ResolvedConfig, topology: Topology, phases: Phases, guards: Guards) -> None:
    """Train one model and leave a complete run folder; a finished one is left as it is."""
    asked, folder = resolved.config, RunFolder(resolved.config.output.dir)
    sizes = asked.settled(topology.world_size)
    quieten_libraries(warnings=topology.is_main)
    if pick_device().type == "cpu":
        keep_freed_memory()

    with phases("rendezvous"):
        ranks = join(topology, asked.distributed, guards.vigil)
        link = measured_link(asked, ranks)
    with phases("data"):
        tokenizer = load_tokenizer(asked)
        data = load_training_data(asked, tokenizer)
        refuse_nonsense(sizes, world_size=topology.world_size, num_train_rows=len(data.train.rows))
    with phases("agreement"):
        identity = run_identity(asked, data, topology.world_size)
        ranks.agree("run shape", identity, asked.distributed.rendezvous_timeout_seconds)
        beginning, checkpoint = begin(resolved, folder, identity, ranks, guards.lock)
        if checkpoint is not None:
            say(topology, f"resuming from {checkpoint}")
    if beginning == "finished":
        say(topology, f"{folder.root} holds this very run, finished. Set output.if_exists=fresh to train it again.")
        return
    watch = start_watching(resolved, folder, ranks, identity, checkpoint)
    phases.on_enter = watch.enter
    with phases("model"):
        transformers.set_seed(asked.seed)
        model = load_model(asked, tokenizer)
        parameters = adapt(model, asked.adapt)
        master_weights_in_fp32(model)
        refuse_unsavable(checkpoint_bytes(parameters.num_trainable), asked.distributed.grace_seconds)
        settled = replace(resolved, config=settled_by_measure(asked, model, data, ranks, checkpoint))
        run = Run(settled, folder, ranks, tokenizer, data, identity, phases)
        say(topology, describe_setup(run, parameters))
        say(topology, describe_batch(run, was_measured=asked.optim.batch_size == "auto"))
    with phases("speed"):
        path = choose_path(run, model)
        say(topology, "\n".join([*path.report, *outlook(run, model, path.name, link)]))
    with phases("training"), path.training(model):
        recorder = make_recorder(run, watch)
        phases.on_enter = recorder.enter
        callbacks = [recorder, *answer_callbacks(run)]
        trainer = METHODS["sft"](run, model, path, callbacks=callbacks, stop=guards.stop, write_history=recorder.save)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        ranks.leave()
    if run.is_main:
        finish(run, trainer, parameters, recorder)


def finish(run: Run, trainer: ExactLoop, parameters: ParameterCount, recorder: Recorder) -> None:
    """What rank 0 does alone once training is over: publish the best model, ask it the demo questions, sum up."""
    config, data, model = run.config, run.data, trainer.model
    torch.set_num_threads(usable_cores())
    with run.phases("publication"):
        best_step = trainer.load_best()
        facts = {"base_model": config.model.name, "best_step": best_step, "identity": run.identity}
        facts |= {"dataset_sha256": data.facts["dataset_sha256"], "made_by": provenance()}
        card = model_card(summary(run, parameters, recorder, best_step))
        publication = Publication(data.system_prompt, data.demo_questions[0], facts, config.output.max_new_tokens, card)
        precision = pick_precision(config.model)
        retried("best_model", lambda: publish(model, run.tokenizer, run.folder, publication, precision))
    del trainer
    gc.collect()
    if config.output.demo:
        with run.phases("demo"):
            write_demo(run, model)
    write_json(run.folder.summary, summary(run, parameters, recorder, best_step))
    write_report_or_warn(run.folder)
    recorder.enter("done", percent=100.0, seconds_left=0)


def say(topology: Topology, text: str) -> None:
    if topology.is_main:
        print(text, flush=True)
