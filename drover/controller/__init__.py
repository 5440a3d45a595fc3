"""The controller: one of them leads, and makes sure that every job and drain goes on, whatever was lost on the way."""
