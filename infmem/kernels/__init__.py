"""GPU kernels written in Triton, each beside the plain function that it equals. Importing one needs Triton."""
