"""How does the published model answer from its volume?

    RUN/best_model on the output volume
          |  storageUri pvc://CLAIM/RUN/best_model, mounted read-only
    InferenceService (what) --runtime--> ServingRuntime (how)     kserve.py
                                               |
                       python3 -c: system prompt into the chat template
                                               |
                              vLLM, OpenAI's API on port 8080

- KServe runs containers through Go's text/template, for which two braces are an action: no `{{` in what is
  rendered.
- vLLM gets the model's own template with its own system prompt as default, so a client that sends the question
  alone asks with the prompt of training. `inference.models.template` does the same elsewhere; a test holds the two
  together.
- The runtime bears the service's name: OpenShift AI's dashboard shows the two together only then.
- RawDeployment and Recreate: a model that takes minutes to load should not be scaled to zero, and a second pod
  could get neither the GPU nor, on another node, a ReadWriteOnce volume.
- Not verified on a cluster, nor with vLLM.
"""
