"""Conversations that were held elsewhere, read from their exports."""
