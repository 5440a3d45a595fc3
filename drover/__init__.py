"""The program: command line, controller, metrics and webhooks, and what all rooms use: settings, errors, the broker."""
