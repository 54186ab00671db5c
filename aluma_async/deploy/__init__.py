"""Files that run and observe an exporter: the systemd unit, the dashboard, the alert rules."""
