"""How does a run get to a cluster, and the model back?

    clusters/*.yaml + --set ... + recipe
            |
        profile.py        a Deployment: the profile, and the run resolved as each pod will resolve it
            |
          jobs/           manifests out, objects in: pure functions, one file per job kind
            |
          kube/           preflight -> apply -> watch, logs -> fetch -> delete; client.py alone talks to the cluster
            |
         serving/         the published model, still on its volume, behind vLLM

`python -m deploy` (`__main__.py`) is the door, `errors.py` has its exit codes; the scripts call it and image tools.

- Nothing here may load torch: of train only config, run_folder and failure are imported, of data schema and files.
- Our own exit codes begin at 10, so that they never meet those of a training pod, which `watch` passes on.
- A profile is checked with the run it starts: world size, output folder and volume can only be wrong together.
- After a change of what is rendered: `python -m deploy render openshift-ai > deploy/pytorchjob.yaml`; a test
  compares.
- What was asked for goes to stdout, all that is said on the way to stderr; a failure is one line and its exit code.
- Nothing of this was tried on a real cluster: `tests/cluster` is one on this machine, with the real kubectl.
"""
