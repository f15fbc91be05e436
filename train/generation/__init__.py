"""What does a model say, and what is that worth?

    settings.py --> generate.py   one prompt, one answer: what every script and proof goes by
                        ^  the same answer, or it is asked again alone
                    batched.py    many prompts: what they share computed once, rows that ended leave
                        |
    while_training.py --+--> scores.py (ROUGE-L, chrF, ...) <-- unit_conversions.py (the right number?)
        every n epochs            row_loss.py   the loss of each row by itself

- Answers in batches must be the single ones. Padding is on the left, masked, and positions count a row's own tokens;
  what remains is the order of sums. It decides where two tokens are all but equal: such a row is answered again,
  alone.
- That is proved in fp32 and not claimed in bf16. On a CPU the demo therefore answers in fp32.
- A model's own generation settings may penalise repetition: then nothing is batched (`is_plainly_greedy`).
- While the model trains on cached states its lower layers are away; `with_trunk` puts them back for the answers.
- Answers to different token ids are not compared: a prompt that differs by a newline is the classic error.
- A state that predicts a label belongs to its row: of the prefix all rows share, the last token before any label is
  computed for each row.
- A number counts as right within 1 %; degrees round to whole ones, also near zero, so half a degree is allowed.
- `settings.py` has no torch: command lines show its defaults in their help.
"""
