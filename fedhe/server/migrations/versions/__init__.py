"""One file a step; named v0001_..., v0002_... in order."""
