"""What is done, in which order and when: the migration and drain workflows. Opens no QMP socket."""
