"""Predicted time and memory of a run on several numbers of devices: arithmetic on plain values, no torch.

Nothing here is measured; what is assumed is a field of `Device` or `Link`, and `train.planning.plan_report` prints it.
The exchange of gradients is taken not to overlap with computing: most of them belong to the head and the last layers,
which the backward pass reaches first and has almost done with by then.
"""

from dataclasses import dataclass, replace
from typing import Literal

from train.fast.when_exact import PathName
from train.planning.cost import ADAM_TRAFFIC_BYTES, FP32_BYTES

GIGA = 1e9
BF16_BYTES = 2
LINE_RATE = 0.9
"""Share of a network's nominal rate that a large all-reduce reaches."""

MEMORY_LIMIT = 0.94
"""Share of a device's memory a run may use; the rest goes to the driver, the libraries and fragmentation."""

TIGHT_MEMORY = 0.85

Fit = Literal["fits", "tight", "does not fit"]


@dataclass(frozen=True)
class Device:
    """Is what computes. TFLOPS are dense peaks; `utilisation` is the share of them that training reaches."""

    name: str
    bf16_tflops: float
    fp32_tflops: float
    memory_bytes: float
    memory_bytes_per_second: float
    utilisation: float
    is_shared: bool = False
    """All ranks run on this one device and share it, as processes on one machine's cores do."""

    def flops_per_second(self, num_ranks: int, *, in_bf16: bool) -> float:
        """Return the speed of one rank, when `num_ranks` of them run."""
        peak = self.bf16_tflops if in_bf16 else self.fp32_tflops
        return peak * 1e12 * self.utilisation / self._sharing(num_ranks)

    def optimizer_bytes_per_second(self, num_ranks: int) -> float:
        return self.memory_bytes_per_second / self._sharing(num_ranks)

    def memory_bytes_per_rank(self, num_ranks: int) -> float:
        return self.memory_bytes / self._sharing(num_ranks)

    def _sharing(self, num_ranks: int) -> int:
        return num_ranks if self.is_shared else 1


GPU_UTILISATION = 0.2
"""Assumed, not measured: small batches of short rows keep a large GPU far from its peak."""

DEVICES = {
    "l40s": Device("L40S", 362.0, 91.6, 48 * GIGA, 864 * GIGA, GPU_UTILISATION),
    "a100": Device("A100", 312.0, 19.5, 80 * GIGA, 2039 * GIGA, GPU_UTILISATION),
    "h100": Device("H100", 989.0, 67.0, 80 * GIGA, 3350 * GIGA, GPU_UTILISATION),
}
"""Makers' figures: bf16 without sparsity, fp32 without TF32, memory and its bandwidth."""


@dataclass(frozen=True)
class Link:
    """Says how fast an all-reduce moves bytes between ranks."""

    bytes_per_second: float
    description: str

    @classmethod
    def nominal(cls, gbit_per_second: float) -> "Link":
        """Return a network by its nominal rate.

        >>> Link.nominal(10).bytes_per_second
        1125000000.0
        """
        rate = f"{gbit_per_second:g} Gbit/s at {LINE_RATE:.0%} of the line rate"
        return cls(gbit_per_second * GIGA / 8 * LINE_RATE, rate)


def all_reduce_seconds(num_bytes: float, num_ranks: int, bytes_per_second: float) -> float:
    """Return the time of a ring, in which every rank sends, and receives, 2 (n - 1) / n of the bytes.

    >>> round(all_reduce_seconds(418.9e6 * 2, 4, Link.nominal(10).bytes_per_second), 2)
    1.12
    """
    return 2 * (num_ranks - 1) / num_ranks * num_bytes / bytes_per_second


def gradient_bytes(num_trainable: int, compression: str) -> int:
    """Return what one all-reduce of all gradients carries."""
    return num_trainable * (BF16_BYTES if compression == "bf16" else FP32_BYTES)


@dataclass(frozen=True)
class Job:
    """Is one run on one path: how much there is to compute and to send."""

    path: PathName
    num_rows: int
    num_epochs: int
    effective_batch_rows: int
    flops_per_row: float
    num_trainable: int
    gradient_bytes: int
    in_bf16: bool
    once_flops: float = 0.0
    """Computing the states of the frozen layers, for all rows."""
    once_bytes: float = 0.0
    """Those states, which every rank gets."""

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.effective_batch_rows) * self.num_epochs

    @property
    def total_flops(self) -> float:
        return self.flops_per_row * self.num_rows * self.num_epochs + self.once_flops


@dataclass(frozen=True)
class Prediction:
    """Holds the seconds of a run on `num_ranks` devices."""

    num_ranks: int
    caching_seconds: float
    compute_seconds: float
    """Of one step: forward, backward and optimizer."""
    exchange_seconds: float
    """Of one step."""
    num_steps: int

    @property
    def step_seconds(self) -> float:
        return self.compute_seconds + self.exchange_seconds

    @property
    def total_seconds(self) -> float:
        return self.caching_seconds + self.num_steps * self.step_seconds


def predict(job: Job, device: Device, link: Link, num_ranks: int) -> Prediction:
    """Predict a run's time without validation, checkpoints, publication and demo, which hardly depend on the ranks."""
    speed = device.flops_per_second(num_ranks, in_bf16=job.in_bf16)
    rows_per_step = job.num_rows * job.num_epochs / job.num_steps  # the mean: an epoch's last step may be smaller
    optimizer = job.num_trainable * ADAM_TRAFFIC_BYTES / device.optimizer_bytes_per_second(num_ranks)
    return Prediction(
        num_ranks=num_ranks,
        caching_seconds=job.once_flops / num_ranks / speed
        + (num_ranks - 1) / num_ranks * job.once_bytes / link.bytes_per_second,
        compute_seconds=rows_per_step / num_ranks * job.flops_per_row / speed + optimizer,
        exchange_seconds=all_reduce_seconds(job.gradient_bytes, num_ranks, link.bytes_per_second),
        num_steps=job.num_steps,
    )


def fit_of(needed_bytes: float, available_bytes: float) -> Fit:
    """Say whether a run fits a device.

    >>> fit_of(80, 100), fit_of(90, 100), fit_of(95, 100)
    ('fits', 'tight', 'does not fit')
    """
    if needed_bytes > MEMORY_LIMIT * available_bytes:
        return "does not fit"
    return "tight" if needed_bytes > TIGHT_MEMORY * available_bytes else "fits"


def verdict(job: Job, device: Device, one: Prediction, many: Prediction) -> str:
    """Say in one sentence whether more ranks are faster, how much, and why; `job` is what the many do."""
    speed_up = one.total_seconds / many.total_seconds
    noun = "processes on this machine" if device.is_shared else "devices"
    outcome = "slower than" if speed_up < 0.95 else "no faster than" if speed_up < 1.05 else "faster than"
    because = (
        f"each step computes for {seconds(many.compute_seconds)} ({seconds(one.compute_seconds)} on {one.num_ranks}) "
        f"and then exchanges {job.gradient_bytes / GIGA:.2g} GB of gradients for {seconds(many.exchange_seconds)}"
    )
    if device.is_shared:
        because += "; they share the same cores, so they divide the work without adding anything to compute it with"
    path = "on the plain path" if job.path == "plain" else f"with {job.path}"
    return (
        f"{path[0].upper()}{path[1:]}, {many.num_ranks} {noun} would be {outcome} {one.num_ranks} "
        f"({speed_up:.2f} x, predicted), because {because}."
    )


def seconds(value: float) -> str:
    """Return a short duration in words.

    >>> seconds(0.0123), seconds(1.117), seconds(74)
    ('0.012 s', '1.1 s', '74 s')
    """
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def with_overrides(device: Device, tflops: float | None, memory_bytes: float | None) -> Device:
    """Return a device with figures the user gave."""
    if tflops is not None:
        device = replace(device, bf16_tflops=tflops, fp32_tflops=tflops)
    return device if memory_bytes is None else replace(device, memory_bytes=memory_bytes)
