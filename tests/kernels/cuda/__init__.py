"""The CUDA kernels, executed on the CPU simulator and compiled for GPUs; nothing here has run on a GPU."""
