"""Which weights, and which of them train?

    model.name --+-- embedded, *.gguf --> de-quantised once into CACHE_DIR/gguf --+
                 +-- folder --------------------------------------------------- --+--> safetensors --> base.py
                 +-- owner/name --------> the hub, or its cache ----------------- +        |
                 +-- random_init: drawn from the seed -------------------------------------+
                                                                                           v
    adapt.py     head untied, last n layers and head require gradients, what trains is fp32

- SmolLM3 ties its head to its embedding. Training the tied weight changes the model's input too and sends the
  backward pass through all 36 layers; so the head is untied by default, and nothing below the first trained layer has
  a gradient.
- Untying must also clear `all_tied_weights_keys`, or `save_pretrained` drops the head as a duplicate.
- What trains is held in fp32 whatever the precision: in bf16 an update smaller than 1/256 of a weight is lost.
- `auto` is bf16 on a GPU that has it and on a CPU with AMX. `smoke` is pinned to fp32: parity and golden tests run on
  it.
- The model transformers reads from a GGUF file counts as quantised, and `save_pretrained` refuses it: it is copied
  into a plain one. The map of tensor names is kept while reading; asked for anew for every module, it took half of
  the time.
- Only safetensors are read: other formats can hold code.
- `SmolLM3Config()` with its defaults is SmolLM3-3B, so its sizes are known without a network.
- The fingerprint is of the files' contents, so a run on a changed model is another run; random weights are known by
  architecture and seed. Seed before the model is built.
- flash_attention_2 cannot take a prefix tree's mask; sharing prefixes saves far more than it does: `auto` is sdpa,
  unless sharing is off.
"""
