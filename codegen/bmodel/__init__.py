"""The .bmodel container: writer and reader."""
