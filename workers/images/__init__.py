"""Image files of guests: made and written down for a job, and kept or deleted after it."""
