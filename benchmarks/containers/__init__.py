"""The project's own containers: built by podman, run by compose.yaml with stand-ins, under kills and upgrades."""
