"""Who may ask over the network, and which server answers?

    server.py      packages there? the network only with a secret; the port free, before a model is loaded
       |                                   (the playground asks the same)
    engines.py     transformers serve | vLLM | llama.cpp: which one serves this model, and may it?
       |
    start.py       an Offer -> the server that exists, started with the template of training

- None of the servers is ours: what is ours is that a client that sends the question alone gets training's prompt.
- transformers serve calls a model by its path and checks no key: it runs where the path is the model's name, and
  stays on this machine.
- vLLM replaces this process, so signals and exit code are its own. Its key travels in the environment, where no
  process listing shows it.
- llama.cpp's default lets a script of any web page ask and read the answer (CORS): switched off.
- Answers are greedy with temperature 0 only; what else a client leaves out, the server decides.
"""
