"""A model that is there: asked, judged, carried elsewhere and served.

    ask_tuned_model  ask_original_model  evaluate  compare  export  serve  playground/      the doors: python -m ...
           |                |               |         |        |      |        |
           +----- asking/ --+---------------+---------+--------+------+--------+      which questions, what answers
                     |                   judging/            gguf/   serving/
                     |        which is better, and how sure   |        |  who may ask, which server
                     |                      |     is the file the same model?
                     +----------------------+--------+--------+
                                            |
                                         models/      which weights, and are they what they say?
                                            |
                                        command.py    what every command line here shares

A file imports its own room and those below it; no door is imported by a room, nor by another door.

- A door loads no torch until the command line is known to make sense: help, refusals and a missing model are told at
  once, and HF_HUB_OFFLINE is set before a library reads it. So doors import the rooms that need torch in functions.
- Results are on stdout alone, and notes on stderr: `--json` output can be piped.
- A script (`python inference/ask_tuned_model.py`) takes this folder off the path: gguf/ here would hide the package
  gguf that transformers reads GGUF files with.
- Tuned and original model differ in their weights alone: same tokenizer, template and system prompt, so the same
  token ids for the same question. Comparing models whose prompts differ is the classic error.
"""
