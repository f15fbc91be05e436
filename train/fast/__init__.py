"""The same sums with less work: which, when are they exact, and how is that proved?

    TRL's trainer --> model(..., labels=, fused_lm_head=True)      fused_head.py, the seam: TRL's losses stay TRL's
                                    |
    three rows   A B C x y          |   prefix_tree.py   one tree: each token once, position = depth
                 A B C x z          v   tree_batch.py    tensors, masks, and the way back to [B, T - 1]
                 A B d            A-B-C-x-y    layers n..top   last_layer.py at label positions alone
                                     | '-z                     tree_attention.py by blocks (CPU), flex_attention (GPU)
                                     '-d       layers 0..n-1   frozen_layers.py, once per row: activation_cache.py
                                                               row_layout.py: where whose states lie
    choose.py      the fastest path that is exact here, proved on one batch before step 1
    when_exact.py  for which models it is not, and why         cross_entropy.py   a few logits at a time
    shared_prefix.py   the same idea for generation and evaluation

- In a causal decoder a token's states depend on the tokens before it alone. So rows that begin alike share that
  beginning, and the frozen layers' states are constants of the run. Everything here follows from these two.
- Exact means: loss and gradient norm of every step to 1e-5 of the plain path, through the command line, in
  tests/parity. What cannot be told to be exact is refused by its configuration, not by a list of names.
- Masks are by tree order: token i sees token j when j is its ancestor, `j <= i < ends[j]`. transformers hands a
  four-dimensional mask to layers with a window unchanged, so every row must fit into the window.
- The cache's key has all that the states depend on: ids, weights, precision, attention, the cut, torch. A row is known
  by its ids, so nothing has to carry numbers through TRL's collators.
- While training on a cache the frozen layers are `PassThrough`, so names and indices stay; generation needs them back
  (`with_trunk`). The trunk leaves the device.
- Blocks of tree attention travel on the mask tensor itself: a layer may be computed again in the backward pass.
- `cross_entropy` overwrites the logits with their gradient: nothing else may need them then. On a CPU TRL would score
  every position and compute the logits twice.
- transformers renames the argument by which a layer is handed its cache (`past_key_values`, `cache` from 5.24 on). A
  layer that takes none of the known ones is computed whole: exact, but slower, and test_last_layer.py fails.
- Few different shapes: oneDNN keeps compiled kernels for each it has seen, so trees are padded to multiples of 64.
- Planning a tree needs the ids on the CPU: on a GPU each micro-batch waits for that. Not verified on a GPU.
"""
