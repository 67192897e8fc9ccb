"""Metrics of memory that people collect: which labels tell what, and which metric says how much is allowed."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric, and what its labels mean."""

    name: str
    matchers: tuple[str, ...] = ()
    """In PromQL: what is left out."""
    limit: str | None = None
    """The metric that says what each may reach."""
    release: tuple[str, ...] = ("version", "release", "app_kubernetes_io_version", "image_tag")
    """Labels that name a release; the tag of `image` counts too."""


CADVISOR = Metric(
    "container_memory_working_set_bytes", ('container!=""', 'container!="POD"'), limit="container_spec_memory_limit_bytes"
)
PRESETS = {
    "cadvisor": CADVISOR,
    "kubernetes": CADVISOR,
    "process-exporter": Metric("namedprocess_namegroup_memory_bytes", ('memtype="resident"',)),
    "leakline": Metric("leakline_process_held_bytes"),
    "process": Metric("process_resident_memory_bytes"),
    "go": Metric("go_memstats_heap_inuse_bytes"),
    "jvm": Metric("jvm_memory_used_bytes", ('area="heap"', 'id=~".*(Old|Tenured).*"'), limit="jvm_memory_max_bytes"),
    "windows": Metric("windows_process_working_set_private_bytes"),
    "node-unreclaimable": Metric("node_memory_SUnreclaim_bytes"),
    "node-anonymous": Metric("node_memory_AnonPages_bytes"),
}
"""Each by the exporter that serves it: cAdvisor, process-exporter, leakline itself, the client libraries' process collector, Go's
runtime, Micrometer and the JVM client (area, id), windows_exporter, node_exporter."""
