"""Untrusted archives, zip and tar: read member by member, within limits."""
