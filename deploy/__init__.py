"""From the image to the cluster and back: manifests as pure functions, one file that talks to the cluster."""
