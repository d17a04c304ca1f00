"""What a user asks for, as lists of named stages: calibrate, deploy with its verification, inspect, the demonstration."""
