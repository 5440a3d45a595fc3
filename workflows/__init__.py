"""What is done, in which order and when: chains, undo, the controller, the command line. Opens no QMP socket."""
