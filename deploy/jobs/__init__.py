"""What is a run to Kubernetes, and what do its objects say of it?

    profile.Deployment                                     objects of the cluster
          |                                                          |
    names, volumes, network, pods      shared by job kinds      pytorchjob.py   read: phase, rank, replicas
          |                                                          |
    pytorchjob.py                      the job around them      meaning.py      in words: state, reason, outcome
          |
    manifests.py  <- manifest_rules.py <- pytorchjob_rules.py <- pod_rules.py   refused before it is sent
          |
    kubectl apply -f -

All of it is pure. What is true of one job kind alone is in its two files; the rest of deploy asks those for it.

- The training operator owns ranks, addresses and Services. It appends its variables after ours, so its value wins:
  never set them. LOCAL_RANK it does not set, and one value could not fit all.
- Write `Master.replicas: 1` and `runPolicy` out: there is no defaulting webhook. `nprocPerNode` is a string.
- A port 23456 under another name than pytorchjob-port makes the Service invalid, and the job never gets a status.
- Pods find each other by Services named like them, <job>-worker-<i>: hence 53 characters and DNS-1035 for a job.
- Running and Succeeded follow the master alone, and conditions are appended anew when they change: type and status
  both count. Nothing changes after Failed.
- OnFailure restarts a container in place, and only `restartCount` shows it; ExitCode and Always never end a job
  that cannot work. No policy touches the other ranks: they must notice, exit and meet again.
- `backoffLimit` counts restarts summed over all pods, and one lost rank makes all restart: a multiple of the pods.
- `cleanPodPolicy: None` would leave the peers of a failed rank holding their GPUs.
- A ReadWriteOnce claim is on one node: the master mounts it, workers get an emptyDir, and no rank but 0 may need
  its files.
- Not `runAsNonRoot` on the pod: it would hold for the operator's init container, whose image runs as root. Never a
  user id either: OpenShift chooses one without an entry in /etc/passwd, so HOME, USER and every cache must be said.
- /dev/shm is 64 MiB unless a Memory emptyDir is mounted there, and what is in it counts as memory of the container.
- A policy sees the port behind a Service: OpenShift's DNS pods listen on 5353, others on 53.
- A Kueue queue chooses the nodes by its flavor: with a GPU node selector beside it the two contradict each other.
- NCCL's debugging switches (P2P, IB, algorithm) are useless or harmful with one GPU per pod on the pod network.
"""
