"""A run folder, finished or not, as what the page says: plain values, nothing computed in the template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.model_files import EMBEDDED_MODEL
from train.results.model_card import EMBEDDED_HUB_ID
from train.results.report.charts import Chart, Series, curve_with_trend, layout, short_number
from train.results.run_files import Record, RunFiles
from train.units import human_bytes, human_seconds


def page_facts(files: RunFiles) -> Record:
    """Return everything the template shows."""
    return {
        "title": title(files),
        "state": state(files),
        "result": result(files),
        "tiles": tiles(files),
        "answers": answers(files),
        "charts": [chart for chart in map(layout, charts(files)) if chart],
        "topics": topics(files),
        "phases": phases(files),
        "data": data_facts(files),
        "made_by": made_by(files),
        "restarts": [{**start, "number": number} for number, start in enumerate(files.starts)],
        "settings": settings(files),
        "recipe": files.config.get("recipe", ""),
    }


def base_title(config: Record) -> str:
    """Return the base model's name as people call it."""
    model = config["model"]
    if model.get("random_init"):
        return f"a {model['random_init'].get('model_type', 'model')} with random weights"
    return Path(EMBEDDED_HUB_ID if model["name"] == EMBEDDED_MODEL else model["name"]).name


def title(files: RunFiles) -> str:
    name = base_title(files.config["config"])
    rows = files.summary.get("data", {}).get("train_rows")
    return f"{name[0].upper()}{name[1:]}, tuned on {rows:,} rows" if rows else f"Tuning {name}"


def state(files: RunFiles) -> Record:
    """Say how the run stands, in a word and a line."""
    step, total = files.status.get("step", 0), files.status.get("total_steps") or "?"
    if files.summary:
        return {"word": "finished", "line": ""}
    if files.failure:
        word = "stopped" if files.was_asked_to_stop else "failed"
        return {"word": word, "line": f"At step {step} of {total}: {files.failure['message']}"}
    return {"word": "unfinished", "line": f"At step {step} of {total}, phase {files.status.get('phase', 'unknown')}."}


def result(files: RunFiles) -> str:
    """Say what came out, in one sentence."""
    original, best = files.original, files.best
    if original is None or best is None:
        return "Not yet measured on validation rows."
    before, after = original["loss"], best["loss"]
    change = 100 * (after - before) / before
    at = f"step {best['step']:,} of {best['total_steps']:,}"
    if after >= before:
        return f"No better than the original on validation rows: loss {before:.4f} → {after:.4f} at {at}."
    return (
        f"Validation loss fell from {before:.4f} to {after:.4f} ({signed(change)}), perplexity from "
        f"{short_number(original['perplexity'])} to {short_number(best['perplexity'])}; best at {at}."
    )


def signed(percent: float) -> str:
    """Return a change as people write it.

    >>> signed(-9.06), signed(1.0)
    ('−9.1 %', '+1.0 %')
    """
    return f"{percent:+.1f} %".replace("-", "−")


def tiles(files: RunFiles) -> list[Record]:
    """Return the numbers people look for first."""
    summary, steps = files.summary, files.of_kind("step")
    found: list[Record] = []

    def add(label: str, value: str, detail: str = "") -> None:
        found.append({"label": label, "value": value, "detail": detail})

    if files.original and files.best:
        before, after = files.original, files.best
        add("Validation loss", f"{after['loss']:.3f}", f"was {before['loss']:.3f}")
        add("Perplexity", short_number(after["perplexity"]), f"was {short_number(before['perplexity'])}")
    if summary:
        parameters, seconds = summary["parameters"], sum(summary["seconds"].values())
        add("Took", human_seconds(seconds), f"{summary['world_size']} rank(s), {summary['hardware']['device']}")
        share = f"{100 * parameters['trainable_share']:.1f} % of {short_number(parameters['total'])}"
        add("Trained weights", short_number(parameters["trainable"]), share)
    if steps:
        speeds = sorted(record["tokens_per_second"] for record in steps)
        add("Tokens per second", short_number(round(speeds[len(speeds) // 2])), "median step, all ranks")
        peak = summary.get("peak_memory_bytes") or max(record["memory_bytes"] for record in steps)
        add("Memory", human_bytes(peak), "peak of rank 0")
    return found


def answers(files: RunFiles) -> list[Record]:
    """Return the demo questions with both answers; cut-off ones end with an ellipsis."""

    def shown(response: Record, side: str) -> str:
        text = str(response[side]).strip()
        return text if response.get(f"{side}_reached_end", True) or not text else f"{text} …"

    return [
        {"question": r["question"], "original": shown(r, "original"), "tuned": shown(r, "tuned")}
        for r in files.demo.get("responses", [])
    ]


def charts(files: RunFiles) -> list[Chart]:
    """Return the curves, over optimizer steps."""
    steps, evaluations = files.of_kind("step"), files.evaluations
    marks = [(start["first_step"], "restart") for start in files.starts[1:]]

    def of(records: Sequence[Record], name: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(record["step"], record[name] / scale) for record in records]

    def trained_and_validated(name: str) -> list[Series]:
        validation = of(evaluations, name)
        return [
            *curve_with_trend("training", of(steps, name)),
            Series("validation", validation, "second"),
            Series("validation", validation, "second", "dots"),
        ]

    rate = Series("learning rate", of(steps, "learning_rate"))
    return [
        Chart("Loss", "nats per label token", trained_and_validated("loss"), marks=marks),
        Chart("Perplexity", "e to the loss", trained_and_validated("perplexity"), marks=marks),
        Chart("Learning rate", "", [rate], marks=marks, from_zero=True),
        Chart("Gradient norm", "before clipping", curve_with_trend("norm", of(steps, "grad_norm")), marks=marks),
        Chart(
            "Throughput",
            "tokens per second, all ranks",
            curve_with_trend("tokens/s", of(steps, "tokens_per_second")),
            marks=marks,
            from_zero=True,
        ),
        Chart("Memory", "GiB, rank 0", [Series("GiB", of(steps, "memory_bytes", 2**30))], marks=marks, from_zero=True),
    ]


def topics(files: RunFiles) -> Record | None:
    """Return both models' validation loss for each topic, the largest gain first, and where to draw it."""
    original, best = files.original, files.best
    if original is None or best is None:
        return None
    before, after = original.get("loss_by_topic", {}), best.get("loss_by_topic", {})
    shared = sorted(before.keys() & after.keys(), key=lambda topic: after[topic] - before[topic])
    if not shared:
        return None
    losses = [loss for topic in shared for loss in (before[topic], after[topic])]
    low, high = min(losses), max(losses)
    counts = files.summary.get("data", {}).get("topics", {})

    def at(loss: float) -> float:
        return 50.0 if high == low else 4 + 92 * (loss - low) / (high - low)

    rows = [
        {
            "topic": topic,
            "rows": counts.get(topic, {}).get("validation"),
            "before": before[topic],
            "after": after[topic],
            "before_at": at(before[topic]),
            "after_at": at(after[topic]),
            "left": min(at(before[topic]), at(after[topic])),
            "width": abs(at(before[topic]) - at(after[topic])),
            "is_worse": after[topic] >= before[topic],
            "change": signed(100 * (after[topic] - before[topic]) / before[topic]),
        }
        for topic in shared
    ]
    return {"rows": rows, "num_worse": sum(row["is_worse"] for row in rows), "step": best["step"]}


def phases(files: RunFiles) -> list[Record]:
    """Return the seconds of each phase of the last start, in order, and their shares of the whole."""
    seconds: Record = files.summary.get("seconds", {})
    total = sum(seconds.values()) or 1.0
    return [
        {"name": name, "text": human_seconds(value) if value >= 1 else f"{value:.1f} s", "share": 100 * value / total}
        for name, value in seconds.items()
    ]


def data_facts(files: RunFiles) -> list[tuple[str, str]]:
    data: Record = files.summary.get("data", {})
    if not data:
        return []
    named = [
        ("Data set", data["dataset"]),
        ("Rows in it", f"{data['rows']:,}"),
        ("Trained on", f"{data['train_rows']:,} rows, {data['train_tokens']:,} tokens"),
        ("Tokens learnt", f"{data['train_label_tokens']:,} (answers only)"),
        ("Validated on", f"{data['validation_rows']:,} rows, none a near copy of a training row"),
        ("Held out", f"{data['held_out_rows']:,} rows like a demo question"),
        ("Cut to length", f"{data['truncated_rows']:,} rows"),
        ("sha256", data["dataset_sha256"][:16]),
    ]
    sides = (f"{topic}: {count['train']} + {count['validation']}" for topic, count in data.get("topics", {}).items())
    return [*named, *([("Topics, training + validation", "; ".join(sides))] if data.get("topics") else [])]


def made_by(files: RunFiles) -> list[tuple[str, str]]:
    """Name code, model, machine and libraries the run was made by."""
    identity, summary = files.config.get("identity", {}), files.summary
    hardware, made = summary.get("hardware", {}), summary.get("made_by", {})
    named = [
        ("Base model", files.config["config"]["model"]["name"]),
        ("Weights", identity.get("model")),
        ("Code", made.get("git_commit")),
        ("Image", made.get("image")),
        ("Ranks", summary.get("world_size") or identity.get("world size")),
        ("Machine", f"{hardware['device']}, {hardware['cores']} cores, {hardware['machine']}" if hardware else None),
        ("Precision", summary.get("precision")),
        ("Attention", summary.get("attention")),
        ("Packages", identity.get("packages")),
    ]
    return [(name, str(value)) for name, value in named if value]


def settings(files: RunFiles) -> list[Record]:
    """Return every setting with its value and where that came from; those somebody set come first."""
    config, sources = files.config["config"], files.config["sources"]

    def value_of(dotted: str) -> Any:
        section, _, name = dotted.partition(".")
        return config[section][name] if name else config[section]

    rows = [
        {"name": name, "value": _as_text(value_of(name)), "source": source, "is_default": source == "default"}
        for name, source in sources.items()
    ]
    return sorted(rows, key=lambda row: row["is_default"])


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {inner}" for name, inner in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
