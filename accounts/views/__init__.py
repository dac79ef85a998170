"""Pages about who: keys, members and invitations, organizations."""
