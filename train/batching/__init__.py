"""Which rows, in which step, on which rank?

    examples --split, subset, render--> tokenise.py   TokenisedRows: ids, labels; what was cut is counted
                                           |
                              row_dataset.py          a row by its number; NO_ROW has no label
                                           |
    batches.py   epoch order, cut into steps, dealt:  step 1 = rows 2 0 5 1 | 7 3 6 4
                                                               rank 0  rank 1
    steps.py     how many steps that makes            topics.py   few groups of many topics

- Rows are shuffled once for all ranks, cut into steps of the effective batch, and only then dealt. So a step has the
  same rows for any world size and any accumulation; this is what every equality of runs rests on.
- The last step of an epoch is smaller: nothing is dropped, nothing repeated.
- A rank for which a step has no row gets one without labels (`NO_ROW`), because all must take part in every
  all-reduce.
- The split (`data.split`) keeps equal questions on one side and the demo questions out, and comes before the cut to a
  subset: of the public set a random split would leave 161 of 285 validation questions word for word in training.
- TRL insists on a `datasets.Dataset`; it gets one, and batches are made here all the same.
- Labels are those of the answers, and a row whose answer was cut away entirely is dropped and counted: it would pass
  silently and teach nothing.
- `steps.py` lies under all who must agree on the number of steps: the trainer's options, plans, checks, the recorder.
- No torch here but in `row_dataset.py`.
"""
