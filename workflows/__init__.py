"""What is done, in which order and when: chains, roll back, the controller, the command line. Opens no QMP socket."""
