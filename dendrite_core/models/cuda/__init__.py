"""The decoder on a CUDA device. Kernels are imported where they are first used, never on a CPU."""
