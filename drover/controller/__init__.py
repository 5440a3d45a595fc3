"""The controller: one of them leads, and makes sure that every job and drain goes on, also after lost messages."""
