"""The kill-loop: a batch under repeated SIGKILL, restarts and faults, then an audit of what the store holds."""
