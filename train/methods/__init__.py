"""What is learnt?

    exact_loop.py    before any of TRL's trainers: exact batches, committed checkpoints, stops of all ranks at once
         |
    sft.py           the answers, by TRL's SFTTrainer        a method is a page and one line in train/run.py
         |
    trl_options.py   RunConfig -> TRL's own options, and what is refused among them
    description.py   what a method is called in a model card

- TRL's trainers for SFT, DPO and GRPO all call `model(..., labels=, fused_lm_head=True)`: the fast paths lie below
  that call (`train.fast.fused_head`), so a method's loss, metrics and collator are TRL's own code.
- The loss of a step is the mean over its label tokens, of every rank and micro-batch: transformers counts them over
  all ranks, TRL divides by the count and multiplies by the world size, since DDP averages.
- TRL averages its metrics over micro-batches, whatever their sizes; what is told of a run is weighted by labels.
- `logging_nan_inf_filter` would replace a NaN loss by the running mean: it is off, and the recorder stops the run.
- `train_dataset` must be a `datasets.Dataset`, though batches are made by `EpochBatches`.
- The evaluation loss is a mean over tokens, by topic too; a validation batch holds one topic, which is where loss by
  topic comes from.
- Requests to stop, and checkpoints that are due, are exchanged in `log`, after every step: all ranks save and leave in
  the same one.
"""
