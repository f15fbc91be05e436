"""Which model is better, by how much, and how sure is that?

    the run's manifest ---> held_out.py     rows it never trained on, and the proof of it
                                 |
    options.py (which) ---> evaluation.py   loss of every row, answers, metrics, safety.py: must and must not say
                                 |
            +--------------------+-------------------+
            |                                        |
    evaluation_report.py                       comparison.py    the tuned model first, then the original, alike
       one model                                     |
                                               verdicts.py      wins, losses, regressions; intervals.py: how sure
                                                     |
                                            comparison_report.py

- Rows are proved to be held out by the fingerprint of both sides of the split, token for token. What cannot be
  proved is said not to be.
- The two models must have been asked the same token ids: the hashes of all prompts are compared.
- The models are never in memory together: the first is gone before the second is loaded.
- On a CPU both are judged in fp32, where an answer does not depend on the batch it was made in; the hash stays that
  of the weights as saved.
- An interval comes from drawing rows anew; a difference whose interval holds 0 is no difference, whatever its mean.
- Margins for a won row and a regression are chosen, not measured; no verdict hangs on them.
- Safety rules find words, not meaning: a kept rule is no proof of safety. A warning ("never use butter") breaks none.
"""
