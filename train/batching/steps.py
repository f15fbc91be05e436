"""How many optimizer steps a run has, and what makes them pointless. No torch here."""

from train.config.run_config import RunConfig
from train.failure import ConfigError


def steps_per_epoch(config: RunConfig, *, world_size: int, num_train_rows: int) -> int:
    """Return the optimizer steps in one epoch; the last may be smaller."""
    return -(-num_train_rows // config.effective_batch_size(world_size))


def total_steps(config: RunConfig, *, world_size: int, num_train_rows: int) -> int:
    """Return the optimizer steps of the whole run."""
    return steps_per_epoch(config, world_size=world_size, num_train_rows=num_train_rows) * config.optim.epochs


def warmup_steps(config: RunConfig, num_steps: int) -> int:
    """Return how many of `num_steps` the learning rate rises for."""
    return round(config.optim.warmup_fraction * num_steps)


def refuse_nonsense(config: RunConfig, *, world_size: int, num_train_rows: int) -> None:
    """Stop before a run that would train nothing, or not what its settings say (ConfigError, with the numbers)."""
    per_epoch = steps_per_epoch(config, world_size=world_size, num_train_rows=num_train_rows)
    steps = per_epoch * config.optim.epochs
    # TRL runs all of this without a word: it trains on less, never reaches the rate, or saves nothing.
    if num_train_rows < config.effective_batch_size(world_size):
        raise ConfigError(
            f"{num_train_rows} training rows do not fill one effective batch of "
            f"{config.effective_batch_size(world_size)} (batch_size {config.micro_batch_rows} x accumulation_steps "
            f"{config.optim.accumulation_steps} x {world_size} ranks)",
            "Lower optim.batch_size, optim.accumulation_steps or optim.effective_batch_size, or add data.",
        )
    if warmup_steps(config, steps) >= steps:
        raise ConfigError(
            f"optim.warmup_fraction={config.optim.warmup_fraction} is {warmup_steps(config, steps)} warm-up steps of "
            f"{steps} in all: the learning rate would never be reached",
            "Lower optim.warmup_fraction or raise optim.epochs.",
        )
    for name, interval in [
        ("evaluation.every_steps", config.evaluation.every_steps),
        ("output.checkpoint_every_steps", config.output.checkpoint_every_steps),
    ]:
        if interval is not None and interval > steps:
            raise ConfigError(f"{name}={interval} is never reached: the run has {steps} steps", f"Lower {name}.")
