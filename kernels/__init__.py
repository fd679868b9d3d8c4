"""Triton kernels and their plain twins; imported as `gpuion.kernels`."""

if __name__ == "kernels":
    raise ImportError("this folder is a part of gpuion: import gpuion.kernels, not kernels")
