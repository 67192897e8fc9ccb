"""Prometheus-compatible stores: Prometheus, VictoriaMetrics, Thanos, Mimir."""
