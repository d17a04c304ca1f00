"""What a user asks for: calibrate, deploy as a list of stages with its verification, inspect, the demonstration."""
