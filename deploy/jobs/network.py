"""The NetworkPolicy says who may talk to the pods of a run, and whom they may talk to."""

from deploy.jobs.names import Manifest, labels
from deploy.profile import ClusterProfile, Deployment


def network_policy(deployment: Deployment) -> Manifest:
    """Let pods of the job talk to each other, to the DNS, and to the internet's listed ports if it has egress.

    From outside, monitoring alone may come in, to the metrics.
    """
    profile, metrics_port = deployment.profile, deployment.config.output.metrics_port
    # By instance, which all ranks of one job share and no other job has.
    own_pods = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": profile.job}}}
    # OpenShift's DNS pods listen on 5353, others on 53; a policy sees the port behind the Service.
    dns_ports = [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]
    egress: list[Manifest] = [{"to": [own_pods]}, {"to": [{"namespaceSelector": {}}], "ports": dns_ports}]
    if profile.egress.internet:
        egress.append({"ports": [{"protocol": "TCP", "port": port} for port in profile.egress.ports]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": profile.job,
            "namespace": profile.namespace,
            "labels": labels(profile, "network"),
        },
        "spec": {
            **own_pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own_pods]}, *_metrics_ingress(profile, metrics_port)],
            "egress": egress,
        },
    }


def _metrics_ingress(profile: ClusterProfile, metrics_port: int | None) -> list[Manifest]:
    """Rules for Prometheus; none where there is nothing to read, or nobody to read it."""
    if metrics_port is None or not profile.monitoring_namespaces:
        return []
    # The label that Kubernetes itself puts on every namespace; others would have to be put there.
    name = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(profile.monitoring_namespaces)}
    sources = [{"namespaceSelector": {"matchExpressions": [name]}}]
    return [{"from": sources, "ports": [{"protocol": "TCP", "port": metrics_port}]}]
