"""`python -m tpu_deploy.cli`: the same as `tpu-deploy`."""

from tpu_deploy.cli import main

main()
