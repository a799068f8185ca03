"""Work that never slows the chat: which model does it, and when."""
