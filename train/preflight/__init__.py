"""Would this run work here?

    every rank, alone                                   all ranks, if there are several
      checks.py: settings -> folders -> template ->       preflight.py: meet within 40 s -> the same run?
        data -> memory -> precision -> model ->             -> how fast is the network? -> do the clocks agree?
        volume -> space -> stopping -> shared memory                       |
        -> beginning                                                       v
              |  a check whose need failed is skipped       TRL's own opinion of the settings
              +---------------> findings of all ranks, the worst of each check, one table, one exit code

- Nothing is trained, and the run folder is left as it was: not even an empty one stays behind.
- A check raises what the run itself would raise, so the exit code is the one the run would have ended with.
- TRL's settings open the process group when they are made, so they are tried after the ranks have met.
- Of more than 20,000 rows a seeded sample is rendered, to stay under a minute; what depends on the rest is not
  claimed.
- A volume is proved by doing what a checkpoint does: write, fsync, rename, read back, lock. A slow fsync is a
  warning.
- A checkpoint that cannot be written between SIGTERM and SIGKILL is refused, at the speed that was measured.
- Clocks are asked through the store; half the round trip is the uncertainty.
- In a container with a read-only root nothing is writable unless it was mounted: /tmp and the cache are tried first.
"""
