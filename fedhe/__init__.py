"""fedhe: federated learning for hospitals with homomorphic encryption."""

__version__ = "0.1.0"
