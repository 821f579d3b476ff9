"""What a step asks of a pod, on Kubernetes. Other engines pass it over.

Memory stands here because it follows from the code: a step holds a batch, a portion or a share of
the machine, never a collection. Everything else of a pod is said by the chart's values.
"""

from typing import Any

TAG = "dagster-k8s/config"


def pod(memory_mebibytes: int, *, cpu: str = "1") -> dict[str, Any]:
    """Return the tags of a step that needs so much memory at most.

    Parameters
    ----------
    memory_mebibytes
        What it gets, and is killed beyond: some twice of what was measured.
    cpu
        How many processors it is to find free; it may take more.
    """
    memory = f"{memory_mebibytes}Mi"
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
    return {TAG: {"container_config": {"resources": resources}}}
