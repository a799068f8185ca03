"""What is kept of conversations beyond their sessions: archives."""
