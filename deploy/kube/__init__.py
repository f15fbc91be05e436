"""What do we ask of the cluster, and what do we do with its answers?

    preflight.py   what would stop the job?     |
    apply.py       create, keep, replace        |
    watch.py       follow to the end            |-- client.py --> API server
    logs.py        lines of one rank or all     |       |         kubectl exec (bytes out of a pod)
    fetch.py       the run folder, byte by byte |       |
                                                    refusals.py   an HTTP status -> what to do, and an exit code

- `client.py` alone talks to the cluster, by paths it knows: discovery would cost a request per API group. It goes
  through `DynamicClient.request`, the one low-level call that the client library kept alike from version 31 to 37.
- A request is repeated while the cluster is silent only if it reads or removes, or never arrived: a second POST
  might create twice. `watch` waits 10 minutes, for an API server that is being updated is away and the job is not.
- Existence of the job kind is asked of discovery, which is open to all; reading CRDs is not. Where we may not look
  a check is unknown, and stops nobody.
- A cluster adds fields (defaults, Kueue's node selectors) and takes none away: what is there covers what is wanted,
  or the job is another one. A second apply of changed fields would fight them.
- Pods are never deleted by force, and a new job waits until the old one's are gone: a pod that still runs somewhere
  would write to the volume that the next one mounts. Volumes are never changed, and deleted only by `delete
  --volumes`.
- Look at the job before its pods: one that has failed must not meet pods from before that.
- A container that ended twice with a permanent code goes on doing so, though OnFailure restarts it: `watch` gives
  up.
- The first pod that failed of itself tells why; 203 and 143 are of ranks that lost it or were stopped after it.
- Log lines that are written at once have one time stamp (CRI-O's): a lost connection is taken up by counting them.
- Bytes come through `kubectl exec`, not the client library, whose channel is made for text. The image has Python
  for certain; tar, find and dd it may not have. Every published file is checked by its sha256, READY comes last.
- The extractor pod's mount is read-only, its claim is not: a volume attached read-write elsewhere would be refused.
  It is put on the node that holds the volume, is removed whatever happens, and ends by its own deadline.
"""
