"""What the SDK talks to, played by servers in the test's process that speak the real protocols."""
