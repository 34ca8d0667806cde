"""The agent that runs in a hospital: keys, network, policy."""
