"""The judges that execute: reference interpreter, command simulator, vendor chip model."""
