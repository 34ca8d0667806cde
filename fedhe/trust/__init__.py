"""Certificates, rosters, signatures and what is sealed under the group key."""
