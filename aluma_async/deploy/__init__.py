"""Files that run and observe an exporter: the systemd unit, the Grafana dashboard, the Prometheus alert rules."""
