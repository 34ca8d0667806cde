"""The server: sums ciphertexts and holds no key."""
