"""Drains: emptying a host, and bringing its guests home.

`planning` says who would go where, `orders` is what operators and schedulers may ask for, `progress` is how the
controller carries it on. The moves are jobs like any other.
"""
