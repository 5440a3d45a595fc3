"""A small Linux guest whose images prove whether a migration kept every acknowledged write."""
