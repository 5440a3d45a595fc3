"""Processes of this host: how they are found and started, as whom, and with what in their hands."""
