"""Which weights are asked, and are they what they say?

    a name or a folder
         |
    source.py  ------------ which one is meant, and may the network be asked?
         |
    published.py            READY there, every file as its manifest lists it, and what it was tuned from
         |
    load.py                 tuned | original | by name, on the best device here
         |
    soundness.py            the template of its run, its own trained weights, the very base it started from

    template.py             the chat template for those who ask without a system prompt (servers, GGUF files)

- published.py, source.py and template.py load no torch: damage is told before any library is imported.
- sha256 of a folder is compared up to 1 GB (below a second), above that with `--verify`; sizes always.
- The original gets the published folder's tokenizer and precision, so that only weights differ.
- A model of random weights (`model.random_init`) lies nowhere: it is made again from its seed.
- A model is hashed by its tensors, not by its file: a head tied to the embedding and an equal copy of it are the
  same model.
- A model's weights may be its base's although every file is as published: an adapter that was never merged. Hence
  soundness.check_weights_applied.
- Most templates say who the model is where no system turn is given. A client that sends the question alone would get
  a prompt that the tuned model never saw, so the system prompt becomes the template's default.
"""
