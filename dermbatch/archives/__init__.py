"""Archives of strangers: zip and tar, member by member, within limits."""
