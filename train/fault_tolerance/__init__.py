"""How does a run stop, and go on?

    begin.py       lock -> set damaged checkpoints aside -> finished | resume | fresh -> all ranks are told
    guards.py      wraps a rank in  stopping.py (SIGTERM, Ctrl-C, STOP), run_lock.py, and the heartbeat
                     asked to stop: all ranks vote in the exchange of a step, save, leave with 143
    checkpoints.py writes in this order           a kill right after it leaves
      1. best weights and history                 the checkpoint before; both are newer, and made again
      2. all files of checkpoint-n/               a folder without a marker, which does not count
      3. their hashes; all flushed                the same
      4. COMMITTED, flushed                       checkpoint-n, from which the next start goes on
      5. older checkpoints deleted                nothing to mend

- Only committed checkpoints count, so a half-written one is never the latest. Nothing commits before the best weights
  and the history it counts on are on the volume: a checkpoint without them could not be finished.
- A checkpoint holds what trains, AdamW's moments, the schedule and every rank's RNG state, not the frozen weights.
- Each file's sha256 is checked before a checkpoint is resumed; a damaged one is renamed, its bad file named, and the
  one before it taken. Hashing goes on while the files are flushed.
- The run's identity (settings, data, model, packages, world size) is compared fact by fact, so a refusal names the
  setting that differs, and those of `output` may differ.
- Rank 0 decides for all, through `ranks.decide`, so its errors reach every rank. A rank that cannot see rank 0's
  volume is sent the files, in pieces.
- A full volume: the older checkpoint makes room, the best weights wait in memory, the run goes on; only a stop on
  request fails if it cannot save. The last checkpoint is not given up for a new one.
- A signal is read by a thread, because the main one may sit in a collective that ends only with its peers. While the
  trainer runs, the request waits for the end of the step, which all ranks take to be the same one. Else, on a second
  signal, or when nine tenths of the grace period are over, the process leaves at once and says so: SIGKILL would not.
- The lock is a file that its owner touches, for locks of the system do not hold on NFS or between pods. Two machines'
  clocks are never compared: both times are the volume's. In a cluster a pod's name is its host name, and process
  numbers begin at 1 again: an equal number is no sign of life.
- A process that was frozen for longer than the lock keeps finds its folder taken over, and leaves it alone.
- No torch here but in `begin.py`.
"""
