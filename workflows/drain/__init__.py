"""Drains: emptying a host, and bringing its guests home.

`planner` says who would go where, `commands` is what operators and schedulers may ask for, `reconciler` is how the
controller carries it on. The moves are jobs like any other.
"""
