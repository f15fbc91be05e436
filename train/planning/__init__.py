"""What will it take?

                 architecture without weights --> sizes.py -----+
    rows, as the run would batch them --> count_work.py --+     |
                                                          v     v
                                          cost.py   arithmetic and bytes of one row, one batch
                                                          |
    measure.py   this link, this device ----------> predict.py   seconds on n devices, does it fit?
                                                          |
      dry_run.py  before a run      plan_report.py  `plan`, and what was assumed      outlook.py  at its start
      auto_batch.py  how many rows fit, by trying     memory_advice.py  what to change when memory ran out

- `cost.py`, `predict.py` and `count_work.py` are arithmetic on plain values: nothing is measured there, and what is
  assumed is a field that the plan prints.
- The exchange of gradients is taken not to overlap with computing: most of them belong to the head and the last
  layers, which the backward pass reaches first and has then almost done.
- On the cached path so little is left to compute that four pods are slower than one (0.12 to 0.90 x from 10 to 100
  Gbit/s). A plan must say so, and it does.
- Ranks on one machine share its cores: they divide the work, and add nothing to do it with.
- GPU figures are makers' figures and an assumed share of them: nothing was measured on a GPU.
- The measure of a matrix product stops when it knows enough: a CPU without bf16 takes seconds for what a GPU does in
  microseconds.
- `memory_advice` speaks while a run fails, perhaps without memory for itself: it may not raise, it falls back to
  less. Its estimates are of the plain path, and what it proposes leaves the rows of a step alone.
- Where a resumed run once found its batch size by trying, it keeps it: another would sum in another order.
"""
