"""What is left behind, and read afterwards?

    the best weights --> publish.py: save aside, read back, ask, compare --> best_model/ <-- model_card.py (README.md)
    the whole run ----> summary.py: training_summary.json, demo_outputs/, the last words on the terminal
                                       |
       a run folder, whole or not --> run_files.py --+--> status.py    how does it stand? exit code
                                                     +--> report/      report.html
       failure.json, logs --------> diagnose.py + known_failures.yaml: which failure is this, and what cures it?

- The saved model is loaded as any user would load it and asked a question; unless its answer is the trained model's,
  token for token, nothing is published. It is compared in the precision it is saved in.
- The tokenizer is read back too: transformers decides of what kind it is, and may make other token ids.
- Summary and `READY` are written last: a run with both is finished, and is not trained again.
- What makes the picture may not cost the run: a report that cannot be made is a warning, for the model is published.
- The report asks no network and runs no library; everything the run said is escaped.
- A failure counts before a status, which may be older. Model, cache, publication and demo write no status while they
  last, so silence there means nothing for half an hour.
- A lost peer is mostly a consequence: `diagnose` names it last, and only as the cause where nothing else is found.
- No torch in what reads a run folder: `status` and `diagnose` answer at once.
"""
