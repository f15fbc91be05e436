"""Who is told of a run, while it runs?

    the trainer's logs --> recorder.py --> training_history.json, status.json (rank 0; on every rank: the stop on NaN)
                              |     |
                              |     +--> display.py     a bar on a terminal, lines in a log
                              v
          watchers.py  gathers them: each a watcher.py (enter, show, pause)
              |-- prometheus.py     every rank, on a port
              +-- tracking.py       rank 0: a queue, and a thread --> sink.py (open, send, finish)
                      ^                                                 trackers.py: TensorBoard, MLflow, Aim
                  system_metrics.py     each rank's machine, through the store

- A watcher may neither raise nor wait: nothing here takes part in the computation, and nothing may stop it. The
  trackers' own callbacks call a server from the training loop; here a thread does, and what is not delivered is
  counted.
- Every rank has a recorder, because every rank must stop at the same step when a number is no longer finite. For that
  `logging_nan_inf_filter` is off: transformers would put the running mean in its place.
- The history is on the volume before a checkpoint commits, and a resumed run drops the records after its checkpoint:
  a step is recorded once, however often it was run.
- `status.json` says which phase the run is in, from the model on (`phases.on_enter`). While training it and the
  history, which grows with the run, are written every few seconds at most.
- Validation batches hold one topic each, which is where the loss by topic comes from.
- MLflow would wait minutes for a server that is down, and report its own use; both are turned off where the user has
  not decided. TensorBoard hides what a resumed run writes again (`purge_step`). Aim takes folders only.
- A tracker knows a run by an id in `tracking.json`, so a resumed run goes on in it. Addresses are masked: they may
  hold a password.
"""
