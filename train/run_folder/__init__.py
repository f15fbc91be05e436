"""What lies in a run folder, and is it whole?

    run_folder.py       every path of a run, and what a fresh start clears
      best_model/  ------ manifest.py        sha256 of every file, READY last, one rename into place
      checkpoints/best -- saved_weights.py   tensors that carry the hash of their own content
    provenance.py       which code and which image made it
    retries.py          who writes, on a volume that may be full or away
          full? wait 1, 3, 9 s -> for people only: warn and go on
                               -> the result depends on it: the last failure is raised, exit 204

- Everything is written by rank 0; other ranks may not even see its volume. The exception is a rank's own RNG state.
- Nothing is ever half there: files and folders are filled aside, flushed and renamed (`data/files.py`), and a marker
  (`READY`, `COMMITTED`) is written last, once all it speaks for has reached the disk.
- A published model stays readable until the next one is complete. Killed between the two renames of a replacement, a
  run leaves the old one as `.best_model.previous`; the next publication puts it back first.
- A manifest comes over a network (`deploy` fetches it) and names files to open: a name that leads out of the folder,
  by `..`, an absolute path or a link, is refused.
- A full disk under a mapped file is a fatal SIGBUS, not an exception: `reserve` allocates the file first.
- Writers say in their own ways that a disk is full: safetensors, torch and Python raise different errors. Whether one
  is a storage failure is decided in one place, `train.failure.exit_code_of`.
- A new file name goes into `run_folder.py`, and into `clear` if a fresh start must not find it.
- No torch here but in `saved_weights.py`: `deploy` reads run folders too.
"""
