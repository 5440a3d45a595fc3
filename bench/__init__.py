"""The cost of Drover: its moves beside those of one plain script, on the same guests in the same run.

`baseline.py` is that script. Whatever it needs, QEMU needs; what Drover needs beyond it is Drover's.
"""
