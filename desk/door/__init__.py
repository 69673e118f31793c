"""Who may: one-time links, sessions, what a proxy says, and what is refused to everybody."""
