"""Project file to certificate authority, certificates, keys and kits."""
