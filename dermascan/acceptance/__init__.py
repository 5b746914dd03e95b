"""The whole pipeline on a real archive, and the check that it does what it says.

`run` walks through it; the other modules unpack what it is given, compare, measure and write.
"""
