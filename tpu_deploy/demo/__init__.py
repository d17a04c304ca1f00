"""The packaged network and images behind `tpu-deploy demo`."""
