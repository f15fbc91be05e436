"""How does a chat model learn from rows? `python -m train --help`; the story of one run is `train/run.py`.

    run.py        settings -> ranks -> data -> agreement -> model -> fast path -> training -> publication -> demo
      |
      |  run_context.py      the run as one noun: what was asked for, who takes part, what is trained on
      v
    preflight/    would it work here?               results/          what is left behind, and read afterwards?
    planning/     what will it take?                methods/          what is learnt?
    generation/   what does it say, and how good is that?   monitoring/   who is told while it runs?
    fast/         the same sums with less work      fault_tolerance/  how does it stop, and go on?
    distributed/  who are we, and are all alive?    model/            which weights, and which train?
    batching/     which rows, in which step?        run_folder/       what lies in it, and is it whole?
    config/       what was asked for?               failure, masking, units

A file imports its own room and those below it, never beside or up: `.importlinter` has the floors, and `make check`
names the import that breaks them.
"""
