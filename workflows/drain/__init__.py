"""Drains: emptying a host, and bringing its guests home.

`planner` decides who would go where, `commands` has the requests of operators and schedulers, `reconciler` is what the
controller runs. The moves are jobs like any other.
"""
