"""From a TPU module to tiles, addresses, commands and the bmodel file."""
