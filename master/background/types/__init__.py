"""The kinds of background jobs, one file each."""
