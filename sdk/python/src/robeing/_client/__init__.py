"""The side that submits tasks: how a fleet is found and trusted, and calls that outlive its coordinators."""
