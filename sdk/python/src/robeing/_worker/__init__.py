"""The side that runs tasks: definitions of handlers, how they are called, and the sessions with agents."""
