"""How updates are encoded, encrypted, summed and decrypted; the only importer of tenseal."""
