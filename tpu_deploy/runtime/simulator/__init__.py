"""Executes the encoded commands of a bmodel on simulated memories and queues."""
