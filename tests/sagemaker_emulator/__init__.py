"""SageMaker on this machine: control plane, runtime and CloudWatch, hosting real models; for tests and dry runs."""
