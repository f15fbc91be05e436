"""Is the exported file the same model?

    tools.py       converter and quantiser, found or fetched (llama_cpp.py)      before anything is written
       |
    weights.py     f16 | q8_0 | q4_k_m, and is there room?
       |
    write.py       the model by links, its template with the system prompt, metadata.py: where it comes from
       |           model.gguf, aside
    proof.py       llama.cpp and transformers get the same prompt ids, and answer alike
       |
    write.py       FILE.check.json, FILE.Modelfile (modelfile.py), and FILE last      proof_report.py: for people

- The converter brings its own `gguf`, which does not go together with the installed one: it runs as a program, from a
  checkout or from CACHE_DIR/tools, and is never installed here. Its package is a third party's, so its sha256 is
  pinned.
- A GGUF file has no place for a default system prompt but the template, so the template carries it.
- The converter may leave things out without a word (an untied head, the template): the finished file is read again.
- Where answers part, the gap between the two tokens tells rounding from a bug: at most 0.1 nats for f16 and 0.5 for
  q8_0, chosen and not measured. Below that precision there is no rule, and the numbers are reported.
- llama-quantize refuses rows that are no multiple of 32 values, and falls back to as much as q8_0 where they are none
  of 256: small models gain nothing from q4_k_m.
- Ollama's templates are Go's. Where the model's says more than texts between messages, the Modelfile has none.
"""
