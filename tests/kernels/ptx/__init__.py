"""What nvcc and NVRTC really emit, executed: an interpreter of PTX behind the CUDA driver's functions."""
