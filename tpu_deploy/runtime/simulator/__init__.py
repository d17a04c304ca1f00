"""The command simulator: executes encoded commands with memories and both queues, and fails on unsafe ones."""

from tpu_deploy.runtime.simulator.machine import SimulationError
from tpu_deploy.runtime.simulator.simulator import Simulator

__all__ = ["SimulationError", "Simulator"]
