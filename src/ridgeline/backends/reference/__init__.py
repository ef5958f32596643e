"""The definition: one obvious NumPy function per operator, and an executor that runs a graph by
them. Slow and plain on purpose; every other backend is held against it.
"""
