"""The parts in C, loaded by ctypes."""
