"""Who are we, and are all alive?

    topology.py  the environment says who we are     launch.py  several ranks on this machine
     rank 0 opens the store  <--- ranks 1..n knock until it answers, then look whether it is of this life
     group.py
        |-- 1. all say "rendezvous" in the store, all read it      no rank missing, and all of one world size
        |-- 2. heartbeat.py takes a connection of its own          before 3, which may hang for good
        |-- 3. the process group opens (NCCL, gloo)
        |-- 4. agree: settings, data, model, packages              the rank and the fact that differ are named
        |-- 5. decide: rank 0 alone looks at its volume            its errors are raised on every rank
        |      training                                            exchange.py: what DDP sends
        v-- 6. leave: all wait, rank 0 last                        it hosts the store
    machine.py   cores, memory, volumes: what this machine gives

- The training operator sets WORLD_SIZE and RANK but never LOCAL_RANK, without which accelerate lets every pod train
  alone. Half-set variables are refused: one world or none, never n separate models.
- A killed rank that is back at once finds the store of the life before, in which all seem to have come. It waits
  until rank 0 has left that one (`_open_store`).
- Rank 0 hosts the store: were it to leave before the others have read what it said, they could not say what went
  wrong. So it waits for their receipts, in bounded time.
- A collective with a dead peer may block for ever, under any backend. So each rank beats into the store from a thread
  of its own; one that is silent, or beats but gets nowhere in a phase where progress is marked, ends all with 203.
  Who was the first to fail is what is reported, not who noticed. Mark progress with `ranks.mark()`.
- A call to torch's store may block for long and serves one thread at a time: every thread has a clone.
- DDP sends all weights of rank 0 at its construction; the frozen ones are left out, for the ranks have proved them
  equal by their hash. Gloo adds bf16 by now, but DDP refuses torch's hook by its name: it is passed under another.
- From 3 CPU ranks on DDP must look for unused parameters: else it lays out its buckets anew after the first step of a
  process, sums in another order, and a resumed run is not bit-equal.
- torch's elastic launcher answers every failure with 1; `launch` returns the code of the first process that failed.
- glibc maps and zeroes blocks of more than 32 MiB anew each time: 30 % of a CPU run's time, unless it keeps them.
- No torch here but in `group.py` and `exchange.py`.
"""
