"""How is one model asked, and what does it answer?

    command line, file, standard input, terminal
                    |
               questions.py        which questions
                    |
      ask.py  ------+------  inference.models: which weights
         |
    generate.py                    one question, alone -> a Reply: streamed to the terminal, or one JSON object a line

- Each question stands alone: nothing of an earlier one, or of its answer, is in the prompt.
- Greedy unless `--sample` says otherwise; a sampling option without it would have no effect, so it is refused.
- Some models begin an answer with white space: it is dropped while streaming, so that what was streamed and what is
  recorded are the same text.
- A question that cannot be asked does not end a typed session, but does end a command line.
- Without a run and without a name the embedded model answers, and a note says so.
"""
