"""How do the original and the tuned model answer, side by side on a page in the browser?

    browser   page/index.html, script.js, style.css
       |      POST /api/answer: a model, a question, settings;  back come lines of JSON while the answer is written
    app.py    may it ask, and is it a question?
       |
    line.py   one request a model at a time, in the order they came; at most eight wait
       |
    writing.py   a thread a model; the models take turns, token by token
       |
    inference.models

- torch has one random state for a process, so models take turns and each keeps its own state between them: a seed
  gives the answer that it gives on the command line.
- Whoever goes away stops the generation after the token that is being written, and only then is the model free.
- Without a token only this machine may ask, by one of its own names: a foreign page could otherwise make a name of
  its own lead here.
- The token stands behind the # of the address, which browsers send to nobody.
- Weights that both models have in common are kept once: tuning the last layers leaves most as they were.
"""
