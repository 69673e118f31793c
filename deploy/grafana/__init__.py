"""The dashboards for Grafana, made from code."""
