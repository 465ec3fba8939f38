"""The one place that emits: integer cells, span events, the Prometheus page, OpenTelemetry instruments."""
