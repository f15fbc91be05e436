"""How do raw rows become a data set that a model can be trained on? See `python -m data --help`.

    .jsonl .csv .parquet hf://    sources.py: raw rows, one at a time
               |                  schema.py: what a row is, every check it must pass
             build.py             spill.py: rows wait on the disk    near_duplicates.py: who says nearly the same
               |
    rows.parquet + manifest       dataset.py, manifest.py: written, read, known again
               |                  stats.py: how long, how many, how often
            split.py              train | validation, no question on both sides
               |
            render.py             token ids and labels, by the template that tokenizer.py froze
               |
          train.batching          and every other package

Below them: files.py (how anything gets onto the disk), libraries.py (what the libraries are told), model_files.py
(where a base model lies), progress.py (how far a job is).

- No module loads torch when it is imported; transformers and datasets are loaded by the functions that need them.
- A bad row is a DataError handed on as a value: whoever reads a million rows decides whether one is the end. What is
  dropped is counted by its reason, with examples, in the manifest.
- The same input and options give the same bytes, the manifest's too: no clock, no hash of a process in them.
- A reader never sees a manifest that does not match its data set: the old one goes first, the new one comes last.
- Near duplicates need the same numbers and negations, in order: "1 minute" and "3 minutes" are two answers.
- The split is append-stable: rows that are added move none that were there, so numbers stay comparable.
- A chat template is a program: SmolLM3's writes today's date and a reasoning mode into every system turn. It is
  frozen once, the frozen text is what is saved, and training, asking, serving and GGUF render by it.
- Labels come from prefixes: the tokens of a conversation with its generation prompt, and those with the answer too,
  must begin the whole. A template or tokenizer that breaks this is refused.
- A file is known again by its sha256, a set of the hub by the fingerprint that `datasets` gives it.
"""
