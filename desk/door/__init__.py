"""Who may come in: one-time links, sessions, what a proxy says, and what is refused to everybody."""
