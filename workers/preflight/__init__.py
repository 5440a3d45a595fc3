"""What a guest is, whether it can run here, and how: every check before anything is changed."""
