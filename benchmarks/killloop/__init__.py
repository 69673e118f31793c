"""The kill-loop: a batch under repeated SIGKILL, restarts and faults, then a verdict on what the store holds."""
