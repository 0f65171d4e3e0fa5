"""Power readings of the board while the engines run, and the energy of a window.

``with choose.choose("auto", ...) as sampler`` begins to read; ``sampler.stop()`` ends it and gives the trace.
"""
